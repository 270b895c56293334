"""What the page does, without the page: a picture, questions about it, and answers that any threshold can be read off.

No gradio here. Whatever a visitor can do wrong ends in a :class:`ValueError` with a sentence for the page.
"""

from __future__ import annotations

import json
import math
import re
import time
import warnings
import zipfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any, NamedTuple

import cv2
import numpy as np

import mmetris
from mmetris.apis import Classification, ImageClassificationInferencer, RefSegPredictor
from mmetris.apis.asking import NO_CLASS, Answer, answer_of_boxes, read_answer
from mmetris.apis.model_zoo import DEMO_CONFIG, find_model, gives_classes
from mmetris.apis.result_files import LabelWriter, ResultWriter, answer_as_dict, encode_rle, write_image
from mmetris.apis.shapes_only import NOTE
from mmetris.models.decode_heads import NoTargetRule
from mmetris.structures.found_boxes import BOX_LISTS, FoundBoxes, box_around, boxes_as_dicts
from mmetris.utils.image_io import read_image
from mmetris.utils.text_files import writable
from mmetris.visualization import draw_expressions, draw_labels

SENTENCES, CLASSES = 'Sentences', 'Class names'
PACKAGE = Path(mmetris.__file__).resolve().parent
LONGEST_SIDE = 1280  # of the picture on the page; files have the picture's own size
THUMBNAIL_SIDE = 200
MAX_CLICKS = 20  # on one mask
WHITE = (255, 255, 255)
CLICK_COLORS = {1: (0, 114, 178), 0: (213, 94, 0)}  # told apart by the sign, too
CLASSES_SHOWN = 10  # in the table
HISTORY = 8  # questions of a visitor that can be gone back to


class Limits(NamedTuple):
    """What a visitor may ask for.

    Attributes:
        max_pixels: Largest picture, width times height. Defaults to 16.8 million.
        max_megabytes: Largest file. Defaults to 20.
        max_texts: Sentences, or class names, of one question. Defaults to 20.
        max_values: Pixels times sentences whose probabilities are kept; of a larger question they are kept on a coarser
            grid. Defaults to 34 million, 134 MB.
    """

    max_pixels: int = 2**24
    max_megabytes: int = 20
    max_texts: int = 20
    max_values: int = 2**25


class Row(NamedTuple):
    """One line of the table below the picture.

    Attributes:
        number: Place of sentence or class among those that were asked, from 0 on, which says the colour of its mask.
        text: Sentence or class name.
        share: Part of the picture that the mask covers, or the box of a model that gives boxes alone, 0..1.
        score: Mean probability inside the mask, 0..1; None where it has none.
        box: Left, top, right, bottom in pixels; None if the mask is empty.
        no_target_score: Score that the sentence means nothing in the picture, 0..1; None of a model that does not
            decide it, and of class names.
        no_target: Whether it means nothing.
    """

    number: int
    text: str
    share: float
    score: float | None = None
    box: tuple[int, int, int, int] | None = None
    no_target_score: float | None = None
    no_target: bool = False


class ClassRow(NamedTuple):
    """One line of the table of a model that names the class of a picture.

    Attributes:
        number: Place of the name among those that were asked, from 0 on.
        text: The name.
        probability: 0..1.
        zero_shot: That of zero-shot CLIP; None where the model does not say it, or says nothing else.
    """

    number: int
    text: str
    probability: float
    zero_shot: float | None = None


class PictureClick(NamedTuple):
    """A click that corrects a mask.

    Attributes:
        x: Column in pixels of the picture.
        y: Row.
        label: 1 where it belongs to the mask, 0 where it does not.
        logits: (h, w), the answer behind it on the model's grid, which the next click corrects; None before it is
            there.
    """

    x: float
    y: float
    label: int
    logits: np.ndarray | None = None


class Question(NamedTuple):
    """What a visitor asked, to ask it again.

    Attributes:
        path: The uploaded file.
        model: Name of the model.
        mode: ``SENTENCES`` or ``CLASSES``.
        text: What was in the box.
    """

    path: str
    model: str
    mode: str
    text: str


class Models:
    """The models that the page was started with. Each is loaded when it is first asked for, and kept.

    Args:
        models: What ``--model`` was given, see :func:`find_model`; None is the demo model.
        weights: Checkpoint, of a single model. Defaults to None: those that belong to it.
        device: ``'cpu'``, ``'cuda:0'``... Defaults to None: the first GPU if there is one.
        max_pixels: Largest picture.

    Raises:
        FileNotFoundError: If files of one of them are missing, before any is loaded.
        ValueError: If weights are given beside several models.
    """

    def __init__(
        self,
        models: Sequence[str | None],
        weights: str | None = None,
        device: str | None = None,
        max_pixels: int = Limits().max_pixels,
    ) -> None:
        if weights is not None and len(models) > 1:
            raise ValueError('--weights belongs to one model: give the others as folders of their trainings')
        classifies = [gives_classes(find_model(model, weights).config) for model in models]
        self._given = dict(zip(_names_of(models), models))
        self._classifies = dict(zip(self._given, classifies))
        self._weights = weights
        self._device, self._max_pixels = device, max_pixels
        self._loaded: dict[str, RefSegPredictor | ClassPredictor] = {}
        self._lock = Lock()

    @property
    def names(self) -> list[str]:
        """What a visitor chooses from."""
        return list(self._given)

    def get(self, name: str | None = None) -> RefSegPredictor | ClassPredictor:
        """A model by its name; of None the first.

        Raises:
            ValueError: If the page was not started with it.
        """
        name = self.names[0] if name is None else name
        if name not in self._given:
            raise ValueError(f'There is no model “{_shorten(str(name))}” here, but {", ".join(self.names)}.')
        with self._lock:
            if name not in self._loaded:
                kind = ClassPredictor if self._classifies[name] else RefSegPredictor
                self._loaded[name] = kind(self._given[name], self._weights, self._device, max_pixels=self._max_pixels)
            return self._loaded[name]


def _names_of(models: Sequence[str | None]) -> list[str]:
    """A short name for each model: that of its file or folder, numbered where it is not the only one."""
    names: list[str] = []
    for model in models:
        path = Path(DEMO_CONFIG if model is None else model)
        short = path.stem if path.suffix == '.py' else path.name
        number = sum(name.split(' (')[0] == short for name in names)
        names.append(f'{short} ({number + 1})' if number else short)
    return names


class ClassAsker:
    """What the page reads off a model that names the class of a picture: it gives no masks, boxes or answers to
    sentences.

    Args:
        classifier: What asks it.
    """

    by_class = by_sentence = gives_masks = gives_boxes = False
    gives_classes = True

    def __init__(self, classifier: ImageClassificationInferencer) -> None:
        self.classifier = classifier


class ClassPredictor:
    """A model that names the class of a picture, in the place of a :class:`RefSegPredictor`.

    Args:
        model: See :class:`ImageClassificationInferencer`; or another predictor, whose model is shared.
        weights: Defaults to None: those that belong to ``model``, or none, for zero-shot CLIP.
        device: Defaults to None: the first GPU if there is one.
        threshold: Not used; those of masks have one.
        max_pixels: Largest picture.
    """

    note = no_target_rule = threshold = None

    def __init__(
        self,
        model: str | ClassPredictor,
        weights: str | None = None,
        device: str | None = None,
        threshold: float | None = None,
        max_pixels: int = Limits().max_pixels,
    ) -> None:
        if isinstance(model, ClassPredictor):
            self.asker = model.asker
        else:
            self.asker = ClassAsker(ImageClassificationInferencer(model, weights, device, max_pixels))
        self._image: np.ndarray | None = None

    @property
    def model(self) -> Any:
        """The model."""
        return self.asker.classifier.model

    def set_image(self, image: np.ndarray) -> None:
        """Keep a picture (H, W, 3) BGR; the model encodes picture and names together."""
        self._image = image

    def reset_image(self) -> None:
        """Forget it."""
        self._image = None

    def classify(self, names: list[str]) -> Classification:
        """The class of the picture.

        Raises:
            ValueError: If there are fewer than two names, or two are alike.
        """
        return self.asker.classifier(self._image, names)[0]


@dataclass
class ClassAnswers:
    """The class of a picture, in the place of :class:`Answers`.

    Attributes:
        image: (H, W, 3) RGB, upright.
        name: File name of the picture.
        texts: The names that were asked.
        found: What the model said.
        is_trained: Whether it has weights; if not, it is zero-shot CLIP.
        path: The file that was asked about.
        notes: See :class:`Answers`.
        note: See there.
        encoding_seconds: What reading the picture took.
        asking_seconds: What the model took.
    """

    image: np.ndarray
    name: str
    texts: list[str]
    found: Classification
    is_trained: bool
    path: str
    notes: list[str] = field(default_factory=list)
    note: str | None = None
    encoding_seconds: float = 0.0
    asking_seconds: float = 0.0

    by_names = True
    drawn_hw = None  # No click corrects anything.

    def draw(self, threshold: float, boxes: bool = False) -> tuple[np.ndarray, list[ClassRow], str]:
        """The picture with the name of its class, for the page (RGB), the rows of the table, and a message."""
        rows = [
            ClassRow(self.texts.index(name), name, value, (self.found.zero_shot or {}).get(name))
            for name, value in list(self.found.probabilities.items())[:CLASSES_SHOWN]
        ]
        if not self.is_trained:
            rows = [row._replace(zero_shot=None) for row in rows]
        notes = [] if self.is_trained else ['No weights were given: this is zero-shot CLIP.']
        return self._drawn(shrink(self.image, LONGEST_SIDE)), rows, '\n'.join([*notes, *self.notes])

    def _drawn(self, image: np.ndarray) -> np.ndarray:
        """A picture in a frame, which has the number of its class, with the name below."""
        name, frame = self.found.name, np.array([[0, 0, *image.shape[1::-1]]], np.float32)
        scores = [np.array([self.found.probabilities[name]])]
        numbers = [self.texts.index(name)]
        return draw_expressions(image, [name], None, numbers=numbers, pred_boxes=[frame], pred_box_scores=scores)

    def write_files(self, threshold: float, folder: Path, boxes: bool = False) -> tuple[str, str]:
        """Write the picture with the name of its class (PNG), and all probabilities (JSON).

        Returns:
            The two files.
        """
        folder.mkdir(parents=True, exist_ok=True)
        picture, told = (folder / f'{_stem_of(self.name)}_class.{ending}' for ending in ('png', 'json'))
        write_image(self._drawn(self.image), picture)
        content = dict(file_name=writable(self.name), **self.as_dict(threshold))
        told.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding='utf-8')
        return str(picture), str(told)

    def as_dict(self, threshold: float | None = None, boxes: bool = False) -> dict:
        """The answer for a program, in the words of ``mmetris classify --json``."""
        height, width = self.image.shape[:2]
        found = dict(height=height, width=width, notes=self.notes, name=self.found.name, trained=self.is_trained)
        return found | dict(probabilities=self.found.probabilities, zero_shot=self.found.zero_shot)


@dataclass
class Answers:
    """All that the model said in answer to one question.

    Attributes:
        image: (H, W, 3) RGB, upright.
        name: File name of the picture.
        texts: Sentences or class names.
        probabilities: (h, w) for each sentence, on the picture's grid or, of a large question, on a coarser one; for
            class names one map (H, W), that of each pixel's best class. None for sentences to a model that gives boxes
            alone.
        labels: (H, W) uint8, the best class of each pixel; None where sentences were asked.
        notes: What is worth knowing about the question, such as a sentence that was cut.
        note: What is to be said of all answers on the picture; None of another model than the one that ships.
        decided: Whether the model of class names has chosen the classes itself, so that no threshold plays a part.
        no_target_scores: 0..1 for each sentence; None of a model that does not decide "not in the picture".
        no_target: Whether each sentence means nothing; None likewise.
        no_target_rule: What it is decided by; None likewise.
        head_boxes: What the model's box head found for each sentence, in pixels of the picture; None of a model without
            one.
        path: The file that was asked about.
        encoding_seconds: What reading and encoding the picture took, once for all questions.
        asking_seconds: What the sentences took.
        clicks: Those on the mask of a sentence, by its place.
        unclicked: Its probabilities before the first one, and whether it meant nothing.
        drawn_hw: Size of the picture that :meth:`draw` made last.
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
    head_boxes: list[FoundBoxes] | None = None
    path: str | None = None
    encoding_seconds: float = 0.0
    asking_seconds: float = 0.0
    clicks: dict[int, list[PictureClick]] = field(default_factory=dict)
    unclicked: dict[int, tuple[np.ndarray, bool]] = field(default_factory=dict)
    drawn_hw: tuple[int, int] | None = None

    @property
    def by_names(self) -> bool:
        """Whether class names were asked."""
        return self.labels is not None

    @property
    def gives_masks(self) -> bool:
        """Whether there are masks; if not, the boxes are all."""
        return self.labels is not None or bool(self.probabilities)

    def boxes_at(self, answers: Sequence[Answer]) -> dict[str, list]:
        """The boxes of the sentences, in pixels of the picture, as :func:`draw_expressions` and :class:`ResultWriter`
        take them: those of the box head, or those around the masks of these answers."""
        found = self.head_boxes
        if found is None:
            found = []
            for answer in answers:
                boxes, *more = box_around(answer.mask, answer.score)
                scale = np.divide(self.image.shape[1::-1], answer.mask.shape[::-1])
                found.append(FoundBoxes(boxes * np.tile(scale, 2).astype(np.float32), *more))
        return {name: list(values) for name, values in zip(BOX_LISTS, zip(*found), strict=True)}

    def answers_at(self, threshold: float, full_size: bool = False) -> Iterator[Answer]:
        """The answer to each sentence at a threshold.

        Args:
            threshold: Pixels above it belong to the mask.
            full_size: Whether it is that of the picture's size where a coarser grid was kept. Defaults to False.
        """
        if not self.gives_masks:
            yield from map(answer_of_boxes, self.head_boxes or ())
            return
        width_and_height = self.image.shape[1::-1]
        scores = self.no_target_scores or [None] * len(self.texts)
        absent = self.no_target or [False] * len(self.texts)
        for probability, *more in zip(self.probabilities, scores, absent):
            if full_size and probability.shape[::-1] != width_and_height:
                probability = cv2.resize(probability, width_and_height, interpolation=cv2.INTER_CUBIC).clip(0, 1)
            yield read_answer(probability, threshold, *more)

    def rows_of(self, answers: Sequence[Answer]) -> list[Row]:
        """Rows of the table, with boxes in pixels of the picture."""
        rows = []
        for index, (text, answer) in enumerate(zip(self.texts, answers)):
            if self.gives_masks:
                scale = np.divide(self.image.shape[1::-1], answer.mask.shape[::-1])
                share = float(answer.mask.mean())
            else:
                scale, share = np.ones(2), float(np.prod(answer.box[2:] - answer.box[:2])) / self.image[..., 0].size
            box = None if answer.is_empty else tuple((answer.box * [*scale, *scale]).round().astype(int).tolist())
            score = None if answer.is_empty else answer.score
            absence = answer.no_target_score, answer.no_target
            rows.append(Row(index, text, share, score, box, *absence))
        return rows

    def labels_at(self, threshold: float) -> np.ndarray:
        """(H, W) uint8: the class of each pixel, 255 where none is above the threshold."""
        if self.decided:
            return self.labels
        return np.where(self.probabilities[0] > threshold, self.labels, NO_CLASS).astype(np.uint8)

    def masks_at(self, threshold: float, answers: Sequence[Answer] | None = None) -> tuple[list[Row], list[np.ndarray]]:
        """Rows of the table and their masks (H, W) bool; classes that are there, largest first. ``answers`` are those
        at the threshold, where they are at hand."""
        if self.labels is None:
            answers = list(self.answers_at(threshold)) if answers is None else answers
            return self.rows_of(answers), [answer.mask for answer in answers]
        labels = self.labels_at(threshold)
        sizes = np.bincount(labels.ravel(), minlength=len(self.texts))[: len(self.texts)]
        present = [int(index) for index in np.argsort(-sizes, kind='stable') if sizes[index]]
        rows = [Row(index, self.texts[index], float(sizes[index] / labels.size)) for index in present]
        return rows, [labels == index for index in present]

    def draw(self, threshold: float, boxes: bool = False) -> tuple[np.ndarray, list[Row], str]:
        """The picture with its masks, and boxes if they are wanted or all there is, for the page (RGB), the rows of the
        table, and a message."""
        image = shrink(self.image, LONGEST_SIDE)
        size = image.shape[1::-1]
        frames: dict[str, list] = {}
        answers = None if self.labels is not None else list(self.answers_at(threshold))
        if answers is not None and (boxes or not self.gives_masks):
            frames = self.boxes_at(answers)
            scale = np.tile(np.divide(size, self.image.shape[1::-1]), 2)
            frames['pred_boxes'] = [found * scale for found in frames['pred_boxes']]
        if answers is not None and not self.gives_masks:
            rows = self.rows_of(answers)
            picture = draw_expressions(image, self.texts, None, legend=False, **frames)
            return picture, rows, self.message(rows, threshold)
        rows, masks = self.masks_at(threshold, answers)
        if masks and masks[0].shape != image.shape[:2]:
            masks = [cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) == 1 for mask in masks]
        if not rows:
            return image, rows, self.message(rows, threshold)
        texts, numbers = [row.text for row in rows], [row.number for row in rows]
        picture = draw_expressions(image, texts, masks, legend=False, numbers=numbers, **frames)
        picture = draw_clicks(picture, [click for each in self.clicks.values() for click in each], self.image.shape[:2])
        self.drawn_hw = picture.shape[:2]
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
            if not self.gives_masks:
                lines.append(
                    f'Nothing found for “{_shorten(rows[index].text)}”: no box has a score that is high enough.'
                )
                continue
            lines.append(
                f'Nothing found for “{_shorten(rows[index].text)}”: no pixel is above the threshold of '
                f'{threshold:.2f} (the highest probability is {self.probabilities[index].max():.2f}).'
            )
        if len(empty) > 3:
            lines.append(f'Nothing found for {len(empty) - 3} more sentences.')
        return '\n'.join(lines)

    def write_files(self, threshold: float, folder: Path, boxes: bool = False) -> tuple[str, str]:
        """Write the picture with its masks and sentences (PNG) and everything as a ZIP archive.

        The archive has what ``out_dir`` of :class:`RefSegInferencer` gets: masks or label maps, overlay and JSON.

        Returns:
            The two files.
        """
        if self.labels is None:
            answers = list(self.answers_at(threshold, full_size=True))
            masks = [answer.mask for answer in answers] if self.gives_masks else None
            texts, scores = self.texts, [answer.score for answer in answers]
            found = self.boxes_at(answers) if boxes or not self.gives_masks else {}
            overlay = draw_expressions(self.image, texts, masks, scores, no_target=self.no_target, **found)
        else:
            labels = self.labels_at(threshold)
            overlay = draw_labels(self.image, self.texts, labels)
        folder.mkdir(parents=True, exist_ok=True)
        stem = _stem_of(self.name)
        picture, archive = folder / f'{stem}_masks.png', folder / f'{stem}_masks.zip'
        write_image(overlay, picture)
        with TemporaryDirectory() as temporary:
            if self.labels is None:
                least = threshold if self.gives_masks else None
                writer = ResultWriter(temporary, least, self.no_target_rule, NOTE if self.note else None)
                of_masks = [answer.box for answer in answers]
                absence = self.no_target_scores, self.no_target
                writer.add(self.name, self.image, texts, masks, of_masks, scores, overlay, *absence, self.note, **found)
            else:
                writer = LabelWriter(temporary, self.texts)
                writer.add(self.name, labels, overlay)
            writer.finish()
            with zipfile.ZipFile(archive, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as file:
                for path in sorted(Path(temporary).rglob('*.*')):
                    file.write(path, path.relative_to(temporary))
        return str(picture), str(archive)

    def as_dict(self, threshold: float, boxes: bool = False) -> dict:
        """The answers for a program, as ``predictions.json`` of ``out_dir`` has them: masks of the picture's size in
        COCO's run lengths, boxes as left, top, width and height; and of class names the mask of each that is there."""
        height, width = self.image.shape[:2]
        found: dict = dict(height=height, width=width, threshold=threshold, notes=self.notes)
        if self.labels is not None:
            rows, masks = self.masks_at(threshold)
            found['classes'] = [
                dict(name=row.text, share=row.share, segmentation=encode_rle(mask)) for row, mask in zip(rows, masks)
            ]
            return found
        found['answers'] = []
        answers = list(self.answers_at(threshold, full_size=True))
        for text, answer in zip(self.texts, answers):
            one = answer_as_dict(text, answer.mask if self.gives_masks else None, answer.box, answer.score)
            if answer.no_target_score is not None:
                one.update(no_target_score=answer.no_target_score, no_target=answer.no_target)
            found['answers'].append(one)
        if boxes or not self.gives_masks:
            found['boxes'] = boxes_as_dicts(self.texts, **self.boxes_at(answers))
        return found


class Session:
    """One visitor's picture and what was asked. The model is shared, the picture's features are not.

    Args:
        model: Whose model is used.
        limits: What the visitor may ask for.
    """

    def __init__(self, model: RefSegPredictor | ClassPredictor, limits: Limits) -> None:
        self.limits = limits
        self.image: np.ndarray | None = None
        self.num_encoded = 0
        self.encoding_seconds = 0.0  # what reading and encoding the picture took
        self.files = TemporaryDirectory(prefix='mmetris_page_')  # what the visitor may download; goes with the session
        self.history: deque[tuple[Question, np.ndarray]] = deque(maxlen=HISTORY)  # and a small picture of the answer
        self.use(model)

    def use(self, model: RefSegPredictor | ClassPredictor) -> None:
        """Ask this model from now on; the features that another made of the picture go."""
        kind = predictor_kind(model)
        self.predictor = kind(model, threshold=model.threshold, max_pixels=self.limits.max_pixels)
        self.path: str | None = None

    def remember(self, question: Question, picture: np.ndarray) -> None:
        """Keep a question, the latest first, with a small copy of the picture of its answer."""
        for entry in [entry for entry in self.history if entry[0] == question]:
            self.history.remove(entry)
        self.history.appendleft((question, shrink(picture, THUMBNAIL_SIDE)))

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
        started = time.perf_counter()
        # By its bytes: a string could be an address, which would be fetched.
        pixels = read_image(file.read_bytes(), self.limits.max_pixels, name=file.name)
        self.predictor.set_image(pixels)
        self.encoding_seconds = time.perf_counter() - started
        self.num_encoded += 1
        self.path, self.image = path, np.ascontiguousarray(pixels[..., ::-1])

    def ask(self, path: str | None, mode: str, text: str) -> Answers | ClassAnswers:
        """Ask about a picture.

        Args:
            path: The uploaded file.
            mode: ``SENTENCES`` or ``CLASSES``.
            text: One sentence a line; or class names, one a line or separated by commas.

        Raises:
            ValueError: If picture or text are not as they should be; the message is for the page.
        """
        names_class = isinstance(self.predictor, ClassPredictor)
        if names_class and mode != CLASSES:
            raise ValueError('This model names the class of a picture: ask it with class names.')
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
            started = time.perf_counter()
            answers: Any
            if names_class:
                answers = self._classify(Path(path), entries)
            else:
                answers = Answers(self.image, Path(path).name, entries, [], path=path)
                if mode == CLASSES:
                    self._ask_classes(answers)
                else:
                    self._ask_sentences(answers)
            answers.encoding_seconds = self.encoding_seconds
            answers.asking_seconds = time.perf_counter() - started
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

    def _classify(self, path: Path, names: list[str]) -> ClassAnswers:
        """The class of the picture."""
        if len(names) < 2:
            raise ValueError('Type the names of at least two classes, for example “circle, square”.')
        found = self.predictor.classify(names)
        trained = self.predictor.asker.classifier.is_trained
        return ClassAnswers(self.image, path.name, names, found, trained, str(path))

    def _ask_sentences(self, answers: Answers) -> None:
        """Fill in the probabilities, on a coarser grid where they would be too many."""
        height, width = self.image.shape[:2]
        size = self._size_of(answers)
        gives_boxes = self.predictor.asker.gives_boxes
        found = self.predictor.predict(answers.texts, out_hw=size, boxes=gives_boxes)
        answers.texts, answers.probabilities = found['texts'], found.get('probabilities', [])
        if gives_boxes:
            grid = np.tile(np.divide((width, height), (width, height) if size is None else size[::-1]), 2)
            boxes = zip(*(found[name] for name in BOX_LISTS), strict=True)
            answers.head_boxes = [FoundBoxes((one * grid).astype(np.float32), *more) for one, *more in boxes]
        answers.no_target_scores, answers.no_target = found.get('no_target_scores'), found.get('no_target')
        answers.no_target_rule = self.predictor.no_target_rule

    def _size_of(self, answers: Answers) -> tuple[int, int] | None:
        """Grid on which the probabilities of sentences are kept; None is the picture's."""
        height, width = self.image.shape[:2]
        scale = math.sqrt(self.limits.max_values / (height * width * len(answers.texts)))
        return None if scale >= 1 else (max(1, int(height * scale)), max(1, int(width * scale)))

    @property
    def takes_clicks(self) -> bool:
        """Whether clicks correct the masks of the model."""
        return getattr(self.predictor, 'takes_clicks', False)

    def click(self, answers: Answers, number: int, place: tuple[float, float], label: int) -> None:
        """Correct the mask of a sentence by one more click.

        Args:
            answers: Those to the sentences, changed in place.
            number: Place of the sentence.
            place: x and y as shares of the picture, 0..1.
            label: 1 where it belongs to the mask, 0 where it does not.

        Raises:
            ValueError: If the model takes no clicks, the sentence has had too many, or there is no such sentence.
        """
        if not self.takes_clicks:
            raise ValueError('This model takes no clicks.')
        if answers.by_names or not 0 <= number < len(answers.texts):
            raise ValueError('Choose the sentence whose mask the click corrects.')
        clicks = answers.clicks.get(number, [])
        if len(clicks) >= MAX_CLICKS:
            raise ValueError(f'A mask takes at most {MAX_CLICKS} clicks: take some back.')
        height, width = answers.image.shape[:2]
        x, y = (min(max(share * size - 0.5, 0), size - 1) for share, size in zip(place, (width, height)))
        self._correct(answers, number, [*clicks, PictureClick(x, y, label)])

    def take_back(self, answers: Answers, number: int, count: int = 1) -> None:
        """Take the last clicks on the mask of a sentence back.

        Args:
            answers: Those to the sentences, changed in place.
            number: Place of the sentence.
            count: How many. Defaults to 1.
        """
        clicks = answers.clicks.get(number, [])
        if clicks:
            self._correct(answers, number, clicks[: max(0, len(clicks) - count)])

    def _correct(self, answers: Answers, number: int, clicks: list[PictureClick]) -> None:
        """Have exactly these clicks on the mask of a sentence."""
        absent = answers.no_target[number] if answers.no_target else False
        before = answers.unclicked.setdefault(number, (answers.probabilities[number], absent))
        probability, absent = before
        if clicks:
            self.set_image(answers.path)
            found = self.predictor.predict(
                answers.texts[number],
                out_hw=self._size_of(answers),
                points=[(click.x, click.y) for click in clicks],
                labels=[click.label for click in clicks],
                previous=clicks[-2].logits if len(clicks) > 1 else None,
            )
            clicks = [*clicks[:-1], clicks[-1]._replace(logits=found['logits'][0])]
            probability, absent = found['probabilities'][0], False
        answers.clicks[number], answers.probabilities[number] = clicks, probability
        if answers.no_target:
            answers.no_target[number] = absent

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


def _stem_of(name: str) -> str:
    """A picture's name for the files that are made of it."""
    return re.sub(r'[^\w-]', '_', Path(name).stem)[:60] or 'picture'


def predictor_kind(model: RefSegPredictor | ClassPredictor) -> type[RefSegPredictor] | type[ClassPredictor]:
    """What asks a model: one that takes clicks comes from a project that has its own."""
    if isinstance(model, ClassPredictor):
        return ClassPredictor
    if getattr(model.model, 'click_head', None) is None:
        return RefSegPredictor
    from projects.clicks.clicks import ClickPredictor

    return ClickPredictor


def draw_clicks(picture: np.ndarray, clicks: Sequence[PictureClick], image_hw: tuple[int, int]) -> np.ndarray:
    """A picture (RGB) of any size that shows an image of ``image_hw``, with clicks as discs with + or -."""
    picture = picture.copy()
    height, width = picture.shape[:2]
    radius = max(6, round(max(height, width) / 90))
    thick, arm = max(2, radius // 4), round(radius * 0.6)
    for click in clicks:
        x = round((click.x + 0.5) / image_hw[1] * width)
        y = round((click.y + 0.5) / image_hw[0] * height)
        cv2.circle(picture, (x, y), radius + thick, WHITE, -1, cv2.LINE_AA)
        cv2.circle(picture, (x, y), radius, CLICK_COLORS[click.label], -1, cv2.LINE_AA)
        cv2.line(picture, (x - arm, y), (x + arm, y), WHITE, thick)
        if click.label:
            cv2.line(picture, (x, y - arm), (x, y + arm), WHITE, thick)
    return picture


def split_entries(text: str | None, mode: str) -> list[str]:
    """Sentences of a text box, one a line; class names also by commas, each once. White space is tidied."""
    text = writable(text or '')
    pieces = text.replace(',', '\n').split('\n') if mode == CLASSES else text.split('\n')
    entries = [' '.join(piece.split()) for piece in pieces]
    return list(dict.fromkeys(entry for entry in entries if entry))


def shrink(image: np.ndarray, longest_side: int) -> np.ndarray:
    """(H, W, 3) made so small that its longer side is not above that; a smaller one as it is."""
    scale = longest_side / max(image.shape[:2])
    if scale >= 1:
        return image
    size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _as_sentence(text: str) -> str:
    return f'{text[:1].upper()}{text[1:].rstrip(".")}.'


def _shorten(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else f'{text[:limit]}…'
