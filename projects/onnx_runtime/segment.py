"""Segment pictures with exported ONNX files: neither mmetris nor torch is needed, nor anything else of the repository.

    python segment.py EXPORTED photo.jpg "the dog on the left" "the brown cat" --out-dir results

``EXPORTED`` is what tools/deployment/export.py wrote. This one file is meant to be copied and changed; it runs with
numpy, pillow, onnxruntime, regex and ftfy.
"""

from __future__ import annotations

import argparse
import gzip
import html
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import ftfy
import numpy as np
import onnxruntime
import regex
from PIL import Image, ImageDraw, ImageOps

COLORS = ((230, 60, 50), (40, 120, 230), (60, 170, 70), (240, 170, 30), (150, 70, 200), (30, 180, 190))
NO_MAP = np.zeros((0, 0), np.float32)  # of an export that gives boxes alone
MAX_CHARACTERS = 2000  # More than the model's tokens can hold; the rest is not looked at.


class Tokenizer:
    """CLIP's byte-pair encoding: lower-cased words, each put together from the pieces of a vocabulary.

    Args:
        path: The vocabulary: a gzipped text whose lines are the pairs that are joined, in order of preference.
        context_length: Tokens of a row; a longer sentence is cut.
        start: Id before a sentence; its piece and that of ``end`` close the vocabulary.
        end: Id after a sentence.
        pad: Id behind the end.
    """

    def __init__(self, path: str | os.PathLike, context_length: int, start: int, end: int, pad: int = 0) -> None:
        self.context_length, self.start, self.end, self.pad = context_length, start, end, pad
        self.letters, alphabet = _byte_letters()
        with gzip.open(path) as file:
            lines = file.read().decode('utf-8').split('\n')
        # The first line is a remark; of the others, CLIP uses as many as its ids leave room for.
        pairs = [tuple(line.split()) for line in lines[1 : 1 + start - 2 * len(alphabet)]]
        self.rank = {pair: place for place, pair in enumerate(pairs)}
        pieces = [*alphabet, *(letter + '</w>' for letter in alphabet), *map(''.join, pairs)]
        self.ids = {piece: place for place, piece in enumerate(pieces)}
        self.special = {'<start_of_text>': start, '<end_of_text>': end}
        self.words = regex.compile(
            r"<start_of_text>|<end_of_text>|'(?:s|t|re|ve|m|ll|d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE
        )
        self._known: dict[str, list[int]] = {}

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Token ids (B, context_length) int64."""
        tokens = np.full((len(texts), self.context_length), self.pad, np.int64)
        for row, text in zip(tokens, texts):
            ids = [self.start, *self.encode(text)[: self.context_length - 2], self.end]
            row[: len(ids)] = ids
        return tokens

    def encode(self, text: str) -> list[int]:
        """Ids of a sentence, without start, end and cut."""
        # A command line hands over bytes that are no UTF-8 as halves of letters; each becomes a replacement character.
        text = regex.sub(r'\p{Cs}', '\N{REPLACEMENT CHARACTER}', text)
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
        text = ' '.join(text.split()).lower()
        return [one for word in self.words.findall(text) for one in self._encode_word(word)]

    def _encode_word(self, word: str) -> list[int]:
        if word in self.special:
            return [self.special[word]]
        if word not in self._known:
            if len(self._known) > 50_000:  # A server meets misspellings without end.
                self._known.clear()
            self._known[word] = [self.ids[piece] for piece in self._pieces(word)]
        return self._known[word]

    def _pieces(self, word: str) -> list[str]:
        """Join neighbours, the most preferred pair first, until no pair is left that the vocabulary has."""
        letters = [self.letters[byte] for byte in word.encode('utf-8')]
        pieces = [*letters[:-1], letters[-1] + '</w>']
        while len(pieces) > 1:
            pair = min(zip(pieces, pieces[1:]), key=lambda pair: self.rank.get(pair, len(self.rank)))
            if pair not in self.rank:
                break
            joined: list[str] = []
            for piece in pieces:
                if joined and (joined[-1], piece) == pair:
                    joined[-1] += piece
                else:
                    joined.append(piece)
            pieces = joined
        return pieces


def _byte_letters() -> tuple[list[str], list[str]]:
    """The letter that stands for each byte, and the letters in the vocabulary's order.

    A byte that prints is its own Latin-1 letter; the others take the letters from 256 on.
    """
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printing]
    letters = {byte: chr(byte) for byte in printing} | {byte: chr(256 + place) for place, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)], [letters[byte] for byte in (*printing, *others)]


def resample(values: np.ndarray, positions: np.ndarray, axis: int, coefficient: float) -> np.ndarray:
    """Values (float32) at fractional positions along an axis, by cubic convolution; outside they are 0."""
    first = np.floor(positions).astype(int)
    far = 1 - (positions - first)  # distance to the tap on the right; the one on the left has 1 - far
    shape = [-1 if place == axis else 1 for place in range(values.ndim)]
    result: np.ndarray | float = 0.0
    for tap, distance in ((-1, 2 - far), (0, 1 - far), (1, far), (2, 1 + far)):
        if tap in (0, 1):
            weight = ((coefficient + 2) * distance - (coefficient + 3)) * distance**2 + 1
        else:
            weight = coefficient * (((distance - 5) * distance + 8) * distance - 4)
        index = first + tap
        inside = (index >= 0) & (index < values.shape[axis])
        taken = np.take(values, index.clip(0, values.shape[axis] - 1), axis)
        result = result + taken * (weight * inside).astype(np.float32).reshape(shape)
    return result


def read_picture(path: str | os.PathLike) -> np.ndarray:
    """A picture as (H, W, 3) RGB uint8: upright, transparent parts on white, 16 bits reduced to 8.

    Raises:
        ValueError: If it cannot be read.
    """
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith('I'):
                grey = np.asarray(image).astype(np.float64) / 257
                image = Image.fromarray(grey.round().clip(0, 255).astype(np.uint8))
            elif 'A' in image.mode or 'transparency' in image.info:
                image = image.convert('RGBA')
                image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
            return np.asarray(image.convert('RGB'))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f'{path} cannot be read as a picture: {error}') from error


class Placed(NamedTuple):
    """A picture in the network's input.

    Attributes:
        images: (1, 3, H, W) float32, RGB, 0..255.
        rows: For each row of the picture, where it lies in the input.
        columns: The same for columns.
    """

    images: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


class Encoded(NamedTuple):
    """A picture as far as the model can go without a sentence; a server keeps it.

    Attributes:
        rows: See :class:`Placed`.
        columns: See there.
        inputs: What the file that is asked about sentences takes of the picture, each (1, ...): the features, or of an
            export in one file the picture.
    """

    rows: np.ndarray
    columns: np.ndarray
    inputs: dict[str, np.ndarray]


class Answer(NamedTuple):
    """What was found for a sentence.

    Attributes:
        text: The sentence.
        probability: (H, W) float32 at the picture's size, 0..1; (0, 0) of an export that gives boxes alone.
        mask: (H, W) bool, likewise.
        score: Mean probability inside the mask; 0 if it is empty.
        no_target_score: Score that the sentence means nothing in the picture, 0..1; None of an export that gives none.
        no_target: Whether it is at or above the threshold, so that the mask is empty.
        boxes: (K, 4) float32: left, top, right, bottom in pixels of the picture, the best first; None of an export that
            gives none.
        box_scores: (K,) in 0..1; None likewise.
    """

    text: str
    probability: np.ndarray
    mask: np.ndarray
    score: float
    no_target_score: float | None = None
    no_target: bool = False
    boxes: np.ndarray | None = None
    box_scores: np.ndarray | None = None


class Segmenter:
    """An exported model.

    Args:
        folder: What tools/deployment/export.py wrote. Where it has the two files image.onnx and text.onnx, a picture
            is encoded once for all questions about it; else whole.onnx is asked.
        providers: ONNX Runtime's execution providers. Defaults to None: the CPU.
        threads: Of a CPU, for one answer. Defaults to 0: as many as there are cores.

    Raises:
        FileNotFoundError: If there is no export, or none for ONNX.
    """

    def __init__(self, folder: str | os.PathLike, providers: Sequence[str] | None = None, threads: int = 0) -> None:
        folder = Path(folder)
        if not (folder / 'export.json').is_file():
            raise FileNotFoundError(f'{folder} has no export.json; is it what tools/deployment/export.py wrote?')
        self.facts = json.loads((folder / 'export.json').read_text(encoding='utf-8'))
        names = ('image', 'text') if 'text.onnx' in self.facts['files'] else ('whole',)
        if f'{names[0]}.onnx' not in self.facts['files']:
            raise FileNotFoundError(f'{folder} has no ONNX files; export with --format onnx')
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        chosen = list(providers or ['CPUExecutionProvider'])
        self.sessions = {
            name: onnxruntime.InferenceSession(str(folder / f'{name}.onnx'), options, chosen) for name in names
        }
        text = self.facts['text']
        if text['vocabulary'] is None:
            raise ValueError(
                f"{folder} is an export of a text encoder whose tokens are not CLIP's: only CLIP's are made here"
            )
        self.tokenizer = Tokenizer(
            folder / text['vocabulary'], text['context_length'], text['start'], text['end'], text['pad']
        )
        # Of masks; None of an export that gives boxes alone.
        self.threshold: float | None = self.facts['threshold']
        # The form of the boxes and from which score on they are given; None of an export that gives none.
        self.boxes: dict | None = self.facts.get('boxes')
        # What decides "not in the picture" and from which score on; None of a model that does not.
        self.no_target: dict | None = self.facts.get('no_target')
        self._encoded: Encoded | None = None

    def place(self, picture: np.ndarray) -> Placed:
        """Fit a picture (H, W, 3) RGB into the network's input: centred, with a border of one colour."""
        facts = self.facts['image']
        (height, width), (ori_h, ori_w) = facts['size'], picture.shape[:2]
        scale = min(height / ori_h, width / ori_w)
        left, top = (width - ori_w * scale) / 2, (height - ori_h * scale) / 2
        border = np.rint(facts['border']).astype(np.float32)
        values = resample(picture - border, (np.arange(height) - top) / scale, 0, facts['cubic_coefficient'])
        values = resample(values, (np.arange(width) - left) / scale, 1, facts['cubic_coefficient'])
        values = np.rint(values + border).clip(0, 255)
        images = np.ascontiguousarray(values.transpose(2, 0, 1)[None], np.float32)
        return Placed(images, np.arange(ori_h) * scale + top, np.arange(ori_w) * scale + left)

    def encode(self, picture: np.ndarray) -> Encoded:
        """Do what can be done of a picture (H, W, 3) RGB uint8 before a sentence is known."""
        placed = self.place(picture)
        inputs = dict(images=placed.images)
        if 'image' in self.sessions:
            session = self.sessions['image']
            features = session.run(None, inputs)
            inputs = {output.name: value for output, value in zip(session.get_outputs(), features)}
        return Encoded(placed.rows, placed.columns, inputs)

    def set_image(self, picture: np.ndarray) -> None:
        """Take a picture (H, W, 3) RGB uint8 and encode it."""
        self._encoded = self.encode(picture)

    def predict(
        self,
        texts: Sequence[str],
        threshold: float | None = None,
        batch_size: int = 8,
        no_target_threshold: float | None = None,
    ) -> list[Answer]:
        """Ask about the picture.

        Args:
            texts: Sentences.
            threshold: Pixels above it belong to the mask. Defaults to None: the model's.
            batch_size: Sentences that go through the model together. Defaults to 8.
            no_target_threshold: A sentence whose no-target score is at least this gets an empty mask and no box.
                Defaults to None: the model's.

        Raises:
            RuntimeError: If no picture is set.
            ValueError: If a sentence is empty, or the export gives no masks or no-target scores for a threshold.
        """
        if self._encoded is None:
            raise RuntimeError('no picture: call set_image first')
        return self.answer([(self._encoded, text) for text in texts], threshold, batch_size, no_target_threshold)

    def answer(
        self,
        questions: Sequence[tuple[Encoded, str]],
        threshold: float | None = None,
        batch_size: int = 8,
        no_target_threshold: float | None = None,
    ) -> list[Answer]:
        """Ask about several pictures together, as a server does with what its visitors ask at one time.

        Args:
            questions: Pictures that :meth:`encode` has seen, each with a sentence.
            threshold: See :meth:`predict`.
            batch_size: See there.
            no_target_threshold: See there.

        Raises:
            ValueError: See there.
        """
        if threshold is not None and self.threshold is None:
            raise ValueError('this export gives boxes alone, so there is no mask that a threshold could decide')
        threshold = self.threshold if threshold is None else threshold
        least = 2.0  # more than any score
        if self.no_target is not None:
            least = self.no_target['threshold'] if no_target_threshold is None else no_target_threshold
        elif no_target_threshold is not None:
            raise ValueError('this export gives no no-target scores, so there is nothing that a threshold could decide')
        questions = [(encoded, ' '.join(text.split())[:MAX_CHARACTERS]) for encoded, text in questions]
        if not all(text for _, text in questions):
            raise ValueError('a sentence is empty: say in words what to segment')
        answers = []
        for start in range(0, len(questions), batch_size):
            chunk = questions[start : start + batch_size]
            outputs = self._outputs(chunk)
            for row, (encoded, text) in enumerate(chunk):
                one = {name: values[row] for name, values in outputs.items()}
                no_target_score = None if self.no_target is None else float(one['no_target_scores'])
                absent = no_target_score is not None and no_target_score >= least
                probability = self._probability(one['probabilities'][0], encoded) if threshold is not None else NO_MAP
                mask = np.zeros(probability.shape, bool)
                if threshold is not None and not absent:
                    mask = probability > threshold
                score = float(probability[mask].mean(dtype=np.float64)) if mask.any() else 0.0
                boxes = () if self.boxes is None else self._boxes(one['boxes'], one['box_scores'], encoded, absent)
                answers.append(Answer(text, probability, mask, score, no_target_score, absent, *boxes))
        return answers

    def _probability(self, values: np.ndarray, encoded: Encoded) -> np.ndarray:
        """Probabilities (H, W) at the picture's size, from those at the size of the network's input."""
        coefficient = self.facts['image']['cubic_coefficient']
        values = resample(values, encoded.rows, 0, coefficient)
        return resample(values, encoded.columns, 1, coefficient).clip(0, 1)

    def _boxes(
        self, boxes: np.ndarray, scores: np.ndarray, encoded: Encoded, absent: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Boxes in pixels of the picture, cut to it, and their scores: the best, or all from a score on; without those
        that have no area."""
        height, width = len(encoded.rows), len(encoded.columns)
        in_h, in_w = self.facts['image']['size']
        scale = min(in_h / height, in_w / width)
        # Rows and columns are centres of pixels, which lie half a pixel from the edges that boxes are made of.
        offset = np.array([encoded.columns[0], encoded.rows[0]] * 2)
        edges = ((boxes - 0.5 - offset) / scale + 0.5).clip(0, [width, height, width, height]).astype(np.float32)
        whole = (edges[:, 2] > edges[:, 0]) & (edges[:, 3] > edges[:, 1]) & (not absent)
        edges, scores = edges[whole], scores[whole]
        order = np.argsort(-scores, kind='stable')
        least = self.boxes['threshold']
        given = order[:1] if least is None else order[scores[order] >= least]
        return edges[given], scores[given]

    def _outputs(self, questions: Sequence[tuple[Encoded, str]]) -> dict[str, np.ndarray]:
        """What the export says of B questions, by the names of its outputs, but for the logits: probabilities (B, 1, H,
        W) at the size of the network's input, no-target scores (B,), boxes (B, Q, 4) and box scores (B, Q)."""
        tokens = self.tokenizer([text for _, text in questions])
        places: dict[int, int] = {}  # of each picture among those that are asked about, once each
        index = np.array([places.setdefault(id(encoded), len(places)) for encoded, _ in questions], np.int64)
        pictures = list({id(encoded): encoded for encoded, _ in questions}.values())
        inputs = {name: _stack([picture.inputs[name] for picture in pictures]) for name in pictures[0].inputs}
        session = self.sessions['text' if 'text' in self.sessions else 'whole']
        names = [output.name for output in session.get_outputs() if output.name != 'logits']
        if 'text' in self.sessions:
            values = session.run(names, dict(tokens=tokens, image_index=index, **inputs))
        else:
            values = session.run(names, dict(images=inputs['images'][index], tokens=tokens))
        return dict(zip(names, values))


def _stack(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """(1, ...) each -> (I, ...), without a copy of a single one."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def draw(picture: np.ndarray, answers: Sequence[Answer]) -> Image.Image:
    """The picture with masks and boxes of each sentence in a colour, and the sentences below."""
    canvas = picture.astype(np.float32)
    for number, answer in enumerate(answers):
        if not answer.mask.size:
            continue
        canvas[answer.mask] = 0.45 * canvas[answer.mask] + 0.55 * np.array(COLORS[number % len(COLORS)], np.float32)
    line = 18
    page = Image.new('RGB', (picture.shape[1], picture.shape[0] + line * len(answers) + 6), 'white')
    page.paste(Image.fromarray(canvas.astype(np.uint8)))
    pen = ImageDraw.Draw(page)
    for number, answer in enumerate(answers):
        for left, top, right, bottom in [] if answer.boxes is None else answer.boxes.tolist():
            pen.rectangle(
                (left, top, max(left, right - 1), max(top, bottom - 1)), None, COLORS[number % len(COLORS)], 2
            )
        top = picture.shape[0] + 4 + line * number
        pen.rectangle((4, top, 16, top + 12), fill=COLORS[number % len(COLORS)])
        # Pillow's own small font has Latin letters only.
        text = answer.text.encode('latin-1', 'replace').decode('latin-1')
        empty = 'not in the picture' if answer.no_target else 'nothing found'
        if answer.mask.any():
            empty = f'{answer.score:.2f}'
        elif answer.box_scores is not None and len(answer.box_scores):
            empty = f'box {answer.box_scores[0]:.2f}'
        pen.text((22, top), f'{text} ({empty})', 'black')
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description='Segment a picture with exported ONNX files')
    parser.add_argument('exported', type=Path, help='folder that tools/deployment/export.py wrote')
    parser.add_argument('image', type=Path, help='picture')
    parser.add_argument('texts', nargs='+', metavar='SENTENCE', help='what to look for')
    parser.add_argument('--out-dir', type=Path, default=Path('results'), help='folder to write to; default: results')
    parser.add_argument('--threshold', type=float, help="0..1; default: the model's")
    parser.add_argument(
        '--no-target-threshold',
        type=float,
        help='no-target score, 0..1, from which on a sentence means nothing in the picture, for models that give such '
        "scores; default: the model's",
    )
    args = parser.parse_args(arguments)
    for name in ('threshold', 'no_target_threshold'):
        value = getattr(args, name)
        if value is not None and not 0 < value < 1:
            parser.error(f'--{name.replace("_", "-")} {value} must be between 0 and 1')
    try:
        segmenter = Segmenter(args.exported)
        picture = read_picture(args.image)
        segmenter.set_image(picture)
        answers = segmenter.predict(args.texts, args.threshold, no_target_threshold=args.no_target_threshold)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    args.out_dir.mkdir(parents=True, exist_ok=True)
    stem = args.image.stem[:60]  # A file's name has 255 bytes, and some are needed behind it.
    for number, answer in enumerate(answers, 1):
        file = args.out_dir / f'{stem}_{number}.png' if answer.mask.size else args.image
        if answer.mask.size:
            Image.fromarray(answer.mask.astype(np.uint8) * 255).save(file)
        found = 'not in the picture' if answer.no_target else 'nothing found'
        if answer.mask.any():
            found = f'{answer.mask.mean():.1%} of the picture, score {answer.score:.2f}'
        if answer.boxes is not None and not answer.no_target:
            boxes = [
                f'box {" ".join(f"{edge:.0f}" for edge in box)}, score {score:.2f}'
                for box, score in zip(answer.boxes, answer.box_scores)
            ] or ['no box']
            found = '; '.join([found, *boxes] if answer.mask.size else boxes)
        if answer.no_target_score is not None:
            least = args.no_target_threshold or segmenter.no_target['threshold']
            found += f', no-target score {answer.no_target_score:.2f} (threshold {least:g})'
        print(f'{file}: "{answer.text}": {found}')
    file = args.out_dir / f'{stem}_overlay.png'
    draw(picture, answers).save(file)
    print(file)


if __name__ == '__main__':
    if hasattr(sys.stdout, 'reconfigure'):
        sys.stdout.reconfigure(errors='replace')  # A sentence may hold letters that the terminal has not.
    main()
