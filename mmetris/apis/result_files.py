"""Predictions as files: masks as PNG, pictures with their sentences, and one JSON with COCO's run-length masks.

out_dir/masks/<image>_<number of the sentence>.png     palette PNG: 0 outside, 1 inside (shown black and white)
out_dir/overlays/<image>.jpg                           the picture with all its masks and sentences
out_dir/predictions.json                               COCO's layout; one annotation for each sentence

Where boxes were asked for, the JSON has ``boxes`` besides: a list in COCO's results form, an entry for each box, which
``COCO(file).loadRes(boxes)`` reads. Of a model that gives boxes alone there are no masks: the annotation of a sentence
is its best box.

Of a model that decides "not in the picture", an annotation has ``no_target_score`` and ``no_target``, and ``info`` what
it decides by and the threshold. Of the model that ships, ``info`` and ``images`` have a ``note`` on what it knows.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from mmetris.models.decode_heads import NoTargetRule
from mmetris.structures.found_boxes import BOX_LISTS, boxes_as_dicts, corners_as_bbox
from mmetris.utils.checkpoint_io import write_atomically
from mmetris.utils.file_names import FreeNames, file_stem
from mmetris.utils.text_files import writable
from mmetris.visualization import draw_expressions


class _Writer(ABC):
    """A context that writes the closing file at its end, after an error too if any picture was finished before it."""

    def __init__(self, out_dir: str | os.PathLike) -> None:
        self.out_dir = Path(out_dir)
        self._names = FreeNames()
        self._num_added = 0  # pictures whose files are all there

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None or self._num_added:
            self.finish()

    @abstractmethod
    def finish(self) -> Path:
        """Write the closing file."""


class ResultWriter(_Writer):
    """Write what was predicted, picture by picture; every file is complete or not there.

    As a context manager it calls :meth:`finish` at the end, and after an error that stops a run halfway.

    Args:
        out_dir: Folder to write to; made if missing. Files of an earlier run with the same names are replaced.
        threshold: What the masks were cut at, kept in the JSON; None of a model that gives boxes alone.
        no_target_rule: What "not in the picture" is decided by, kept there too. Defaults to None: it is not decided.
        note: What is to be said of all answers, kept there too. Defaults to None.
    """

    def __init__(
        self,
        out_dir: str | os.PathLike,
        threshold: float | None,
        no_target_rule: NoTargetRule | None = None,
        note: str | None = None,
    ) -> None:
        super().__init__(out_dir)
        self._info: dict[str, Any] = dict(description='boxes predicted by mmetris')
        if threshold is not None:
            self._info = dict(description='masks predicted by mmetris', threshold=threshold)
        if no_target_rule is not None:
            self._info['no_target'] = no_target_rule._asdict()
        if note is not None:
            self._info['note'] = note
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._boxes: list[dict[str, Any]] | None = None  # Of a run that was not asked for boxes.

    @property
    def path(self) -> Path:
        """The JSON."""
        return self.out_dir / 'predictions.json'

    def add_answers(self, one: Mapping[str, Any], overlay: np.ndarray | None = None, **more: Any) -> None:
        """Write one picture of :meth:`RefSegInferencer.stream`.

        Args:
            one: What was yielded.
            overlay: See :meth:`add`. Defaults to None.
            **more: What else the JSON says of the picture.
        """
        lists: dict[str, Any] = {key: one.get(key) for key in ('texts', 'masks', 'boxes', 'scores')}
        given = {key: one[key] for key in ('no_target_scores', 'no_target', 'note', *BOX_LISTS) if key in one}
        self.add(one['name'], one['image'], **lists, overlay=overlay, **given)
        self._images[-1].update(more)

    def add(
        self,
        name: str,
        image: np.ndarray,
        texts: Sequence[str],
        masks: Sequence[np.ndarray] | None,
        boxes: Sequence[np.ndarray],
        scores: Sequence[float],
        overlay: np.ndarray | None = None,
        no_target_scores: Sequence[float] | None = None,
        no_target: Sequence[bool] | None = None,
        note: str | None = None,
        pred_boxes: Sequence[np.ndarray] | None = None,
        pred_box_scores: Sequence[np.ndarray] | None = None,
        box_source: Sequence[str] | None = None,
    ) -> None:
        """Write one picture's masks and overlay.

        Args:
            name: File name of the picture.
            image: (H, W, 3) RGB, upright.
            texts: Its sentences.
            masks: (H, W) bool for each of them; None of a model that gives boxes alone.
            boxes: (4,) left, top, right, bottom for each of them.
            scores: 0..1 for each of them.
            overlay: Their picture, RGB. Defaults to None: drawn here.
            no_target_scores: 0..1 for each of them. Defaults to None: the model gives none.
            no_target: Whether each of them means nothing in the picture. Defaults to None, as the scores.
            note: What is to be said of the answers on this picture. Defaults to None.
            pred_boxes: (K, 4) for each of them, see :class:`~mmetris.structures.found_boxes.FoundBoxes`. Defaults to
                None: they were not asked for.
            pred_box_scores: (K,) for each of them, likewise.
            box_source: ``'head'`` or ``'mask'`` for each of them, likewise.
        """
        found: dict[str, Any] = dict(pred_boxes=pred_boxes, pred_box_scores=pred_box_scores, box_source=box_source)
        stem = self._names.of(file_stem(name))
        if overlay is None:
            overlay = draw_expressions(image, texts, masks, scores, no_target=no_target, **found)
        write_image(overlay, self.out_dir / 'overlays' / f'{stem}.jpg')
        image_id = len(self._images) + 1
        height, width = image.shape[:2]
        annotations: list[dict[str, Any]] = []
        given = [None] * len(texts) if masks is None else masks
        for number, (text, mask, box, score) in enumerate(zip(texts, given, boxes, scores, strict=True), 1):
            ids = dict(id=len(self._annotations) + number, image_id=image_id, category_id=1)
            annotations.append(ids | answer_as_dict(text, mask, box, score))
            if mask is not None:
                file = Path('masks') / f'{stem}_{number}.png'
                write_mask(mask, self.out_dir / file)
                annotations[-1]['mask_file'] = file.as_posix()
        if no_target_scores is not None and no_target is not None:
            for annotation, no_target_score, absent in zip(annotations, no_target_scores, no_target, strict=True):
                annotation.update(no_target_score=no_target_score, no_target=absent)
        entry: dict[str, Any] = dict(id=image_id, file_name=writable(name), height=height, width=width)
        self._images.append(entry if note is None else dict(entry, note=note))
        self._annotations.extend(annotations)
        if pred_boxes is not None and pred_box_scores is not None and box_source is not None:
            self._boxes = [
                *(self._boxes or ()),
                *boxes_as_dicts(texts, pred_boxes, pred_box_scores, box_source, image_id),
            ]
        self._num_added += 1

    def finish(self) -> Path:
        """Write the JSON and return its path."""
        content = dict(
            info=self._info,
            images=self._images,
            annotations=self._annotations,
            categories=[dict(id=1, name='referred object')],
        )
        if self._boxes is not None:
            content['boxes'] = self._boxes
        with write_atomically(self.path) as temporary:
            temporary.write_text(json.dumps(content, ensure_ascii=False), encoding='utf-8')
        return self.path


class LabelWriter(_Writer):
    """Write label maps: ``labels/<image>.png`` (index of the class, 255 for none), ``overlays/<image>.jpg`` and
    ``classes.json`` (the names in order).

    Args:
        out_dir: Folder to write to; made if missing.
        classes: Names of the classes.
    """

    def __init__(self, out_dir: str | os.PathLike, classes: Sequence[str]) -> None:
        super().__init__(out_dir)
        self.classes = [writable(name) for name in classes]

    def add(self, name: str, labels: np.ndarray, overlay: np.ndarray) -> None:
        """Write one picture's label map and overlay.

        Args:
            name: File name of the picture.
            labels: (H, W) uint8.
            overlay: (H', W', 3) RGB.
        """
        stem = self._names.of(file_stem(name))
        image = Image.fromarray(labels).convert('L')
        # Any colours that differ: viewers would show small numbers as black.
        colors = np.random.default_rng(0).integers(60, 256, (256, 3))
        colors[255] = 0
        image.putpalette(colors.astype(np.uint8).ravel().tolist())
        with write_atomically(self.out_dir / 'labels' / f'{stem}.png') as temporary:
            image.save(temporary)
        write_image(overlay, self.out_dir / 'overlays' / f'{stem}.jpg')
        self._num_added += 1

    def finish(self) -> Path:
        """Write the names and return the file's path."""
        path = self.out_dir / 'classes.json'
        with write_atomically(path) as temporary:
            temporary.write_text(json.dumps(self.classes, ensure_ascii=False), encoding='utf-8')
        return path


def answer_as_dict(text: str, mask: np.ndarray | None, box: np.ndarray, score: float) -> dict[str, Any]:
    """What COCO's layout says of one sentence, ready for JSON.

    Args:
        text: The sentence.
        mask: (H, W) bool; None of a model that gives boxes alone, whose ``area`` is the box's.
        box: (4,) left, top, right, bottom; ``bbox`` is left, top, width, height.
        score: 0..1.
    """
    bbox = corners_as_bbox(box)
    shape = dict(area=bbox[2] * bbox[3]) if mask is None else dict(segmentation=encode_rle(mask), area=int(mask.sum()))
    return dict(expression=writable(text), score=score, **shape, bbox=bbox, iscrowd=0)


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed run-length form of a mask (H, W) bool, ready for JSON."""
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return dict(size=[int(side) for side in rle['size']], counts=rle['counts'].decode('ascii'))


def write_mask(mask: np.ndarray, path: str | os.PathLike) -> None:
    """Write a mask (H, W) bool as a PNG whose values are 0 and 1, which viewers show as black and white."""
    image = Image.fromarray(mask.astype(np.uint8)).convert('L')
    image.putpalette([0, 0, 0, 255, 255, 255])
    with write_atomically(path) as temporary:
        image.save(temporary)


def write_image(image: np.ndarray, path: str | os.PathLike) -> None:
    """Write an RGB picture (H, W, 3) in the format its ending says, atomically.

    Raises:
        ValueError: If the ending is no picture format.
    """
    check_image_suffix(path)
    with write_atomically(path) as temporary:
        options: dict[str, Any] = dict(quality=92) if temporary.suffix.lower() in ('.jpg', '.jpeg') else {}
        Image.fromarray(image).save(temporary, **options)


def check_image_suffix(path: str | os.PathLike) -> None:
    """Raise ValueError unless a file's ending is one that pictures are written in."""
    suffixes = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.tif', '.tiff')
    if Path(path).suffix.lower() not in suffixes:
        raise ValueError(f'{path} needs the ending of a picture format: {", ".join(suffixes)}')
