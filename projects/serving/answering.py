"""What the server does, without the server: requests are read, pictures are kept encoded, sentences are asked together.

No LitServe here, and neither mmetris nor torch. What a request can have wrong ends in a :class:`Refusal` with a status
of HTTP and a sentence for who sent it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import io
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[1] / 'onnx_runtime'))
from segment import Answer, Encoded, Segmenter, read_picture  # noqa: E402


class Limits(NamedTuple):
    """What a request may ask for.

    Attributes:
        max_megabytes: Largest file of a picture. Defaults to 20.
        max_pixels: Largest picture, width times height. Defaults to 16.8 million.
        max_sentences: Of one request. Defaults to 20.
        cache_megabytes: What the encoded pictures may take; those asked about longest ago go. Defaults to 512.
    """

    max_megabytes: int = 20
    max_pixels: int = 2**24
    max_sentences: int = 20
    cache_megabytes: int = 512


class Refusal(NamedTuple):
    """A request that cannot be answered.

    Attributes:
        status: Of HTTP, 400 to 499; 503 of a server that has too much to do.
        detail: What is wrong and what to do.
    """

    status: int
    detail: str


class Question(NamedTuple):
    """A request.

    Attributes:
        picture_id: SHA-256 of the picture's file, in hexadecimal digits.
        sentences: What to look for, each with a word.
        file: The picture's file; None if it was sent before.
    """

    picture_id: str
    sentences: list[str]
    file: bytes | None


class Pictures:
    """Encoded pictures by the SHA-256 of their files, as many as the memory that is given to them holds.

    Args:
        encode: Makes of a picture (H, W, 3) RGB what is kept.
        limits: Largest picture, and the memory.
    """

    def __init__(self, encode: Callable[[np.ndarray], Encoded], limits: Limits) -> None:
        self._encode, self._limits = encode, limits
        self._kept: OrderedDict[str, Encoded] = OrderedDict()
        self._bytes = 0
        self.num_encoded = 0

    def get(self, picture_id: str, file: bytes | None) -> Encoded | Refusal:
        """A picture that is kept, or its file, encoded."""
        if picture_id in self._kept:
            self._kept.move_to_end(picture_id)
            return self._kept[picture_id]
        if file is None:
            return Refusal(404, f'picture {picture_id[:12]}... is not kept here (any more): send the picture itself')
        picture = decode(file, self._limits)
        if isinstance(picture, Refusal):
            return picture
        encoded = self._encode(picture)
        self.num_encoded += 1
        self._kept[picture_id] = encoded
        self._bytes += size_of(encoded)
        while self._bytes > self._limits.cache_megabytes * 10**6 and len(self._kept) > 1:
            self._bytes -= size_of(self._kept.popitem(last=False)[1])
        return encoded


class Answering:
    """An exported model that answers several requests together.

    Args:
        folder: What tools/deployment/export.py wrote.
        limits: What a request may ask for. Defaults to :class:`Limits`.
        batch_size: Sentences that go through the model together. Defaults to 8.
        threads: See :class:`Segmenter`. Defaults to 0.

    Raises:
        FileNotFoundError: If there is no export, or none for ONNX.
    """

    def __init__(self, folder: str | Path, limits: Limits | None = None, batch_size: int = 8, threads: int = 0) -> None:
        self.limits = Limits() if limits is None else limits
        self.segmenter = Segmenter(folder, threads=threads)
        self.batch_size = batch_size
        self.pictures = Pictures(self.segmenter.encode, self.limits)

    def answer(self, questions: Sequence[Question | Refusal]) -> list[dict[str, Any] | Refusal]:
        """Answer what was asked at one time. What is wrong with one question spoils no other.

        Args:
            questions: What :func:`read_question` made of the requests.

        Returns:
            For each what is sent back.
        """
        pictures = [
            question if isinstance(question, Refusal) else self.pictures.get(question.picture_id, question.file)
            for question in questions
        ]
        pairs = [
            (picture, sentence)
            for question, picture in zip(questions, pictures)
            if not isinstance(picture, Refusal)
            for sentence in question.sentences
        ]
        answers = iter(self.segmenter.answer(pairs, batch_size=self.batch_size))
        return [
            picture
            if isinstance(picture, Refusal)
            else dict(
                picture_id=question.picture_id,
                height=len(picture.rows),
                width=len(picture.columns),
                threshold=self.segmenter.threshold,
                answers=[describe(next(answers)) for _ in question.sentences],
            )
            for question, picture in zip(questions, pictures)
        ]


class Batches:
    """Answer questions together: while some are being answered, the others that come wait, and are the next batch.

    So one that comes alone waits for nobody, and the batches grow with the load.

    Args:
        answer: Answers a list of questions, in another thread.
        most: Questions of a batch.
        most_waiting: Further ones are refused.
    """

    def __init__(self, answer: Callable[[list], list], most: int, most_waiting: int) -> None:
        self._answer, self._most, self._most_waiting = answer, most, most_waiting
        self._waiting: deque[tuple[Any, asyncio.Future]] = deque()
        self._task: asyncio.Task | None = None

    async def ask(self, question: Any) -> Any:
        """The answer to a question.

        Raises:
            Exception: Whatever the answering of its batch raised.
        """
        if len(self._waiting) >= self._most_waiting:
            return Refusal(503, f'{len(self._waiting)} requests are waiting already: try again later')
        found: asyncio.Future = asyncio.get_running_loop().create_future()
        self._waiting.append((question, found))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._answer_all())
        return await found

    async def _answer_all(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            try:
                answers = await asyncio.to_thread(self._answer, [question for question, _ in batch])
            except Exception as error:
                for _, found in batch:
                    if not found.done():
                        found.set_exception(error)
                continue
            for (_, found), answer in zip(batch, answers):
                if not found.done():  # Whoever asked may have given up.
                    found.set_result(answer)


def read_question(
    picture: str | None, picture_id: str | None, sentences: Sequence[str], limits: Limits
) -> Question | Refusal:
    """Check a request, as far as that goes without decoding the picture.

    Args:
        picture: The picture's file in base64; or None.
        picture_id: What an earlier answer called it; or None.
        sentences: What to look for.
        limits: What may be asked for.
    """
    if (picture is None) == (picture_id is None):
        return Refusal(422, 'send either "picture", a file in base64, or "picture_id" of one that was sent before')
    if not sentences:
        return Refusal(422, '"sentences" is empty: say in words what to segment')
    if len(sentences) > limits.max_sentences:
        return Refusal(422, f'{len(sentences)} sentences are too many: at most {limits.max_sentences} at a time')
    for number, sentence in enumerate(sentences, 1):
        if not sentence.split():
            return Refusal(422, f'sentence {number} is empty: say in words what to segment')
        if not is_text(sentence):
            return Refusal(422, f'sentence {number} holds half of a character, such as \\ud800')
    if not is_text(picture_id or ''):
        return Refusal(422, '"picture_id" holds half of a character, such as \\ud800')
    if picture is None:
        return Question(str(picture_id), list(sentences), None)
    if len(picture) * 3 // 4 > limits.max_megabytes * 10**6 + 2:
        return Refusal(413, f'the file is larger than {limits.max_megabytes} MB')
    try:
        file = base64.b64decode(picture, validate=True)
    except (binascii.Error, ValueError):  # The latter where it has letters beyond ASCII.
        return Refusal(400, '"picture" is not base64')
    return Question(hashlib.sha256(file).hexdigest(), list(sentences), file)


def is_text(text: str) -> bool:
    """Whether a text can be sent back; JSON's escapes can spell halves of characters, which UTF-8 does not have."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def decode(file: bytes, limits: Limits) -> np.ndarray | Refusal:
    """A picture (H, W, 3) RGB, whose size is looked at before its pixels are read."""
    try:
        with Image.open(io.BytesIO(file)) as image:
            width, height = image.size
        if width * height > limits.max_pixels:
            return Refusal(413, f'the picture has {width} x {height} pixels: at most {limits.max_pixels} are read')
        return read_picture(io.BytesIO(file))
    except Image.DecompressionBombError:
        return Refusal(413, f'the picture has too many pixels: at most {limits.max_pixels} are read')
    except Exception:  # A decoder can fail in any way at bytes that are none of its format.
        return Refusal(415, 'the file cannot be read as a picture')


def describe(answer: Answer) -> dict[str, Any]:
    """An answer for JSON: mask as PNG of one bit in base64, null of an export that gives boxes alone; box around it as
    left, top, right, bottom, of which the last two are exclusive, or null where nothing is found; and of an export with
    boxes each of ``boxes``, likewise, with its ``score``."""
    mask = None
    if answer.mask.size:
        buffer = io.BytesIO()
        Image.fromarray(answer.mask).save(buffer, 'png', compress_level=1)
        mask = base64.b64encode(buffer.getvalue()).decode('ascii')
    rows, columns = np.flatnonzero(answer.mask.any(1)), np.flatnonzero(answer.mask.any(0))
    box = None
    if len(rows):
        box = [int(edge) for edge in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]
    found: dict[str, Any] = dict(sentence=answer.text, score=answer.score, box=box, mask=mask)
    if answer.boxes is not None and answer.box_scores is not None:
        pairs = zip(answer.boxes.tolist(), answer.box_scores.tolist(), strict=True)
        found['boxes'] = [dict(box=corners, score=score) for corners, score in pairs]
    if answer.no_target_score is not None:
        found.update(no_target_score=answer.no_target_score, no_target=answer.no_target)
    return found


def size_of(encoded: Encoded) -> int:
    """Bytes that an encoded picture takes."""
    return sum(array.nbytes for array in (encoded.rows, encoded.columns, *encoded.inputs.values()))
