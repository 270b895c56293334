"""What the page does, without the page: a picture, questions about it, and answers that any threshold can be read off.

No gradio here. Whatever a visitor can do wrong ends in a :class:`ValueError` with a sentence for the page.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import cv2
import numpy as np

import mmetris
from mmetris.apis import RefSegPredictor
from mmetris.apis.asking import NO_CLASS, read_answer
from mmetris.apis.result_files import LabelWriter, ResultWriter, write_image
from mmetris.apis.shapes_only import NOTE
from mmetris.models.decode_heads import NoTargetRule
from mmetris.utils.image_io import read_image
from mmetris.utils.text_files import writable
from mmetris.visualization import draw_expressions
from mmetris.visualization.expression_overlay import color_of

SENTENCES, CLASSES = 'Sentences', 'Class names'
PACKAGE = Path(mmetris.__file__).resolve().parent
LONGEST_SIDE = 1280  # of the picture on the page; files have the picture's own size


class Limits(NamedTuple):
    """What a visitor may ask for.

    Attributes:
        max_pixels: Largest picture, width times height. Defaults to 16.8 million.
        max_megabytes: Largest file. Defaults to 20.
        max_texts: Sentences, or class names, of one question. Defaults to 20.
        max_values: Pixels times sentences, all of whose probabilities are kept. Defaults to 34 million, 134 MB.
    """

    max_pixels: int = 2**24
    max_megabytes: int = 20
    max_texts: int = 20
    max_values: int = 2**25


class Row(NamedTuple):
    """One line of the table below the picture.

    Attributes:
        color: RGB of its mask.
        text: Sentence or class name.
        share: Part of the picture that the mask covers, 0..1.
        score: Mean probability inside the mask, 0..1; None where it has none.
        box: Left, top, right, bottom in pixels; None if the mask is empty.
        no_target_score: Score that the sentence means nothing in the picture, 0..1; None of a model that does not
            decide it, and of class names.
        no_target: Whether it means nothing.
    """

    color: tuple[int, int, int]
    text: str
    share: float
    score: float | None = None
    box: tuple[int, int, int, int] | None = None
    no_target_score: float | None = None
    no_target: bool = False


@dataclass
class Answers:
    """All that the model said in answer to one question.

    Attributes:
        image: (H, W, 3) RGB, upright.
        name: File name of the picture.
        texts: Sentences or class names.
        probabilities: (H, W) for each sentence; for class names one map, that of each pixel's best class.
        labels: (H, W) uint8, the best class of each pixel; None where sentences were asked.
        notes: What is worth knowing about the question, such as a sentence that was cut.
        note: What is to be said of all answers on the picture; None of another model than the one that ships.
        decided: Whether the model of class names has chosen the classes itself, so that no threshold plays a part.
        no_target_scores: 0..1 for each sentence; None of a model that does not decide "not in the picture".
        no_target: Whether each sentence means nothing; None likewise.
        no_target_rule: What it is decided by; None likewise.
    """

    image: np.ndarray
    name: str
    texts: list[str]
    probabilities: list[np.ndarray]
    labels: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)
    decided: bool = False
    no_target_scores: list[float] | None = None
    no_target: list[bool] | None = None
    no_target_rule: NoTargetRule | None = None
    note: str | None = None

    def labels_at(self, threshold: float) -> np.ndarray:
        """(H, W) uint8: the class of each pixel, 255 where none is above the threshold."""
        if self.decided:
            return self.labels
        return np.where(self.probabilities[0] > threshold, self.labels, NO_CLASS).astype(np.uint8)

    def masks_at(self, threshold: float) -> tuple[list[Row], list[np.ndarray]]:
        """Rows of the table and their masks (H, W) bool; classes that are there, largest first."""
        if self.labels is None:
            scores = self.no_target_scores or [None] * len(self.texts)
            absent = self.no_target or [False] * len(self.texts)
            answers = [read_answer(one, threshold, *more) for one, *more in zip(self.probabilities, scores, absent)]
            rows = [
                Row(
                    color_of(index),
                    text,
                    float(answer.mask.mean()),
                    None if answer.is_empty else answer.score,
                    None if answer.is_empty else tuple(int(edge) for edge in answer.box),
                    answer.no_target_score,
                    answer.no_target,
                )
                for index, (text, answer) in enumerate(zip(self.texts, answers))
            ]
            return rows, [answer.mask for answer in answers]
        labels = self.labels_at(threshold)
        sizes = np.bincount(labels.ravel(), minlength=len(self.texts))[: len(self.texts)]
        present = [int(index) for index in np.argsort(-sizes, kind='stable') if sizes[index]]
        rows = [
            Row(color_of(rank), self.texts[index], float(sizes[index] / labels.size))
            for rank, index in enumerate(present)
        ]
        return rows, [labels == index for index in present]

    def draw(self, threshold: float) -> tuple[np.ndarray, list[Row], str]:
        """The picture with its masks for the page (RGB), the rows of the table, and a message."""
        rows, masks = self.masks_at(threshold)
        scale = min(1, LONGEST_SIDE / max(self.image.shape[:2]))
        image = self.image
        if scale < 1:
            size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            masks = [cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) == 1 for mask in masks]
        picture = draw_expressions(image, [row.text for row in rows], masks, legend=False) if rows else image
        return picture, rows, self.message(rows, threshold)

    def message(self, rows: list[Row], threshold: float) -> str:
        """What the masks do not show: nothing found, and the notes on the question."""
        lines = list(self.notes)
        if self.labels is not None:
            if not rows:
                lines.insert(
                    0,
                    f'No pixel is above the threshold of {threshold:.2f} for any class (the highest '
                    f'probability is {self.probabilities[0].max():.2f}): move the threshold down.',
                )
            return '\n'.join(lines)
        absent = [row for row in rows if row.no_target]
        for row in absent[:3]:
            lines.append(
                f'“{_shorten(row.text)}” is not in the picture, says the model (no-target score '
                f'{row.no_target_score:.2f}, from {self.no_target_rule.threshold:g} on nothing is marked).'
            )
        if len(absent) > 3:
            lines.append(f'{len(absent) - 3} more sentences are not in the picture.')
        empty = [index for index, row in enumerate(rows) if row.box is None and not row.no_target]
        for index in empty[:3]:
            lines.append(
                f'Nothing found for “{_shorten(rows[index].text)}”: no pixel is above the threshold of '
                f'{threshold:.2f} (the highest probability is {self.probabilities[index].max():.2f}).'
            )
        if len(empty) > 3:
            lines.append(f'Nothing found for {len(empty) - 3} more sentences.')
        return '\n'.join(lines)

    def write_files(self, threshold: float, folder: Path) -> tuple[str, str]:
        """Write the picture with its masks and sentences (PNG) and everything as a ZIP archive.

        The archive has what ``out_dir`` of :class:`RefSegInferencer` gets: masks or label maps, overlay and JSON.

        Returns:
            The two files.
        """
        rows, masks = self.masks_at(threshold)
        texts = [row.text for row in rows]
        scores = None if self.labels is not None else [row.score or 0.0 for row in rows]
        overlay = self.image
        if rows:
            overlay = draw_expressions(self.image, texts, masks, scores, no_target=self.no_target)
        folder.mkdir(parents=True, exist_ok=True)
        stem = re.sub(r'[^\w-]', '_', Path(self.name).stem)[:60] or 'picture'
        picture, archive = folder / f'{stem}_masks.png', folder / f'{stem}_masks.zip'
        write_image(overlay, picture)
        with TemporaryDirectory() as temporary:
            if self.labels is None:
                writer = ResultWriter(temporary, threshold, self.no_target_rule, NOTE if self.note else None)
                boxes = [np.array(row.box or (0, 0, 0, 0), np.float32) for row in rows]
                absence = self.no_target_scores, self.no_target
                writer.add(self.name, self.image, texts, masks, boxes, scores, overlay, *absence, self.note)
            else:
                writer = LabelWriter(temporary, self.texts)
                writer.add(self.name, self.labels_at(threshold), overlay)
            writer.finish()
            with zipfile.ZipFile(archive, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as file:
                for path in sorted(Path(temporary).rglob('*.*')):
                    file.write(path, path.relative_to(temporary))
        return str(picture), str(archive)


class Session:
    """One visitor's picture. The model is shared, the picture's features are not.

    Args:
        model: Whose model is used.
        limits: What the visitor may ask for.
    """

    def __init__(self, model: RefSegPredictor, limits: Limits) -> None:
        self.predictor = RefSegPredictor(model, threshold=model.threshold, max_pixels=limits.max_pixels)
        self.limits = limits
        self.path: str | None = None
        self.image: np.ndarray | None = None
        self.num_encoded = 0
        self.files = TemporaryDirectory(prefix='mmetris_page_')  # what the visitor may download; goes with the session

    def set_image(self, path: str | None) -> None:
        """Read and encode an uploaded file, unless it is the one that was asked about last.

        Raises:
            ValueError: If there is none, it is too large or no picture.
        """
        if path is None:
            raise ValueError('Load a picture first.')
        if path == self.path:
            return
        self.path = self.image = None
        self.predictor.reset_image()
        file = Path(path)
        if file.stat().st_size > self.limits.max_megabytes * 10**6:
            raise ValueError(
                f'{file.name} is too large: {file.stat().st_size / 1e6:.1f} MB; at most '
                f'{self.limits.max_megabytes} MB are read here.'
            )
        # By its bytes: a string could be an address, which would be fetched.
        pixels = read_image(file.read_bytes(), self.limits.max_pixels, name=file.name)
        self.predictor.set_image(pixels)
        self.num_encoded += 1
        self.path, self.image = path, np.ascontiguousarray(pixels[..., ::-1])

    def ask(self, path: str | None, mode: str, text: str) -> Answers:
        """Ask about a picture.

        Args:
            path: The uploaded file.
            mode: ``SENTENCES`` or ``CLASSES``.
            text: One sentence a line; or class names, one a line or separated by commas.

        Raises:
            ValueError: If picture or text are not as they should be; the message is for the page.
        """
        entries = split_entries(text, mode)
        if not entries:
            raise ValueError(
                'Type a sentence, for example “the red circle on the left”.'
                if mode == SENTENCES
                else 'Type the names of at least two classes, for example “circle, square”.'
            )
        if len(entries) > self.limits.max_texts:
            raise ValueError(f'{len(entries)} are too many: at most {self.limits.max_texts} at a time.')
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('ignore')
            warnings.simplefilter('always', UserWarning)
            self.set_image(path)
            kept = 1 if mode == CLASSES else len(entries)
            room = self.limits.max_values // self.image[..., 0].size
            if kept > room:
                raise ValueError(
                    f'{kept} sentences are too many for a picture of {self.image[..., 0].size / 1e6:.1f} '
                    f'million pixels: ask at most {max(room, 1)} at a time, or take a smaller picture.'
                )
            answers = Answers(self.image, Path(path).name, entries, [])
            if mode == CLASSES:
                self._ask_classes(answers)
            else:
                result = self.predictor.predict(entries)
                answers.texts, answers.probabilities = result['texts'], result['probabilities']
                answers.no_target_scores, answers.no_target = result.get('no_target_scores'), result.get('no_target')
                answers.no_target_rule = self.predictor.no_target_rule
        answers.note = self.predictor.note
        notes = [
            _as_sentence(str(warning.message))
            for warning in caught
            if issubclass(warning.category, UserWarning)
            and Path(warning.filename).is_relative_to(PACKAGE)
            and str(warning.message) not in (answers.note or '')
        ]
        if answers.note not in (None, NOTE):  # What holds for every picture stands on top of the page.
            notes.insert(0, _as_sentence(answers.note))
        answers.notes = list(dict.fromkeys(notes))
        return answers

    def _ask_classes(self, answers: Answers) -> None:
        """Fill in labels and the probability of each pixel's best class, in the manner of ``label_map``."""
        if len(answers.texts) < 2:
            raise ValueError('Type the names of at least two classes, for example “circle, square”.')
        vocabulary = self.predictor.asker.vocabulary_of(answers.texts)
        if self.predictor.asker.by_class:
            answers.labels, answers.decided = self.predictor.label_map(vocabulary), True
            answers.probabilities = [np.ones(answers.labels.shape, np.float32)]
            return
        shape = self.image.shape[:2]
        best, labels = np.zeros(shape, np.float32), np.full(shape, NO_CLASS, np.uint8)
        at_once = min(8, max(1, self.limits.max_values // best.size))
        for start in range(0, len(answers.texts), at_once):
            found = self.predictor.predict(answers.texts[start : start + at_once])
            for label, probability in enumerate(found['probabilities'], start):
                if found.get('no_target', [False] * at_once)[label - start]:
                    continue
                higher = probability > best
                best[higher], labels[higher] = probability[higher], label
        answers.probabilities, answers.labels = [best], labels


def split_entries(text: str | None, mode: str) -> list[str]:
    """Sentences of a text box, one a line; class names also by commas, each once. White space is tidied."""
    text = writable(text or '')
    pieces = text.replace(',', '\n').split('\n') if mode == CLASSES else text.split('\n')
    entries = [' '.join(piece.split()) for piece in pieces]
    return list(dict.fromkeys(entry for entry in entries if entry))


def _as_sentence(text: str) -> str:
    return f'{text[:1].upper()}{text[1:].rstrip(".")}.'


def _shorten(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else f'{text[:limit]}…'
