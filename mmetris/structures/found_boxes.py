"""Boxes for sentences, of any model: those that a box head predicts or, of a model of masks alone, the one around the
mask; and COCO's form of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from mmetris.utils.shapes import bounds_of
from mmetris.utils.text_files import writable

HEAD, MASK = 'head', 'mask'
# The lists of results that hold the fields of :class:`FoundBoxes`.
BOX_LISTS = ('pred_boxes', 'pred_box_scores', 'box_source')


class FoundBoxes(NamedTuple):
    """The boxes of one sentence, highest score first.

    Attributes:
        boxes: (K, 4) float32: left, top, right, bottom in pixels of the picture; right and bottom are exclusive. K is 0
            where nothing was found.
        scores: (K,) float32 in 0..1.
        source: ``'head'``: predicted by the model's box head. ``'mask'``: the box around the mask, whose score is the
            mean probability inside it.
    """

    boxes: np.ndarray
    scores: np.ndarray
    source: str


def boxes_of_head(instances: Any, image_hw: tuple[int, int], threshold: float | None = None) -> FoundBoxes:
    """Boxes of a predicted sample, cut to the picture; those without area are dropped.

    Args:
        instances: ``pred_instances`` of a sample, with ``bboxes`` (Q, 4) and ``scores`` (Q,).
        image_hw: Size of the picture.
        threshold: Score from which on a box is given. Defaults to None: the best one.
    """
    boxes = torch.as_tensor(instances.bboxes).detach().float().cpu().numpy().reshape(-1, 4)
    scores = torch.as_tensor(instances.scores).detach().float().cpu().numpy().reshape(-1)
    height, width = image_hw
    boxes = boxes.clip(0, np.array([width, height, width, height], np.float32))
    # Not of NaN, either: no comparison with it is true.
    whole = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]) & np.isfinite(scores)
    boxes, scores = boxes[whole], scores[whole]
    order = np.argsort(-scores, kind='stable')
    given = order[:1] if threshold is None else order[scores[order] >= threshold]
    return FoundBoxes(boxes[given], scores[given], HEAD)


def box_around(mask: np.ndarray, score: float, threshold: float | None = None) -> FoundBoxes:
    """The box around a mask; none around an empty one.

    Args:
        mask: (H, W) bool.
        score: Mean probability inside the mask.
        threshold: Score from which on a box is given. Defaults to None: any.
    """
    if not mask.any() or (threshold is not None and score < threshold):
        return FoundBoxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), MASK)
    return FoundBoxes(np.array([bounds_of(mask)], np.float32), np.array([score], np.float32), MASK)


def append_boxes(lists: Mapping[str, Any], found: FoundBoxes) -> None:
    """Append the boxes of a sentence to the lists :data:`BOX_LISTS`.

    Args:
        lists: Lists by their names.
        found: The boxes.
    """
    for name, value in zip(BOX_LISTS, found, strict=True):
        lists[name].append(value)


def boxes_as_dicts(
    texts: Sequence[str],
    pred_boxes: Sequence[np.ndarray],
    pred_box_scores: Sequence[np.ndarray],
    box_source: Sequence[str],
    image_id: int | None = None,
) -> list[dict[str, Any]]:
    """COCO's results form, ready for JSON: an entry for each box.

    Args:
        texts: The sentences of a picture.
        pred_boxes: See :class:`FoundBoxes`, for each of them.
        pred_box_scores: See there.
        box_source: See there.
        image_id: Of the picture. Defaults to None: the entries have none.

    Returns:
        ``image_id``, ``category_id`` (1), ``bbox`` (left, top, width, height in pixels), ``score``, ``expression``,
        ``sentence`` (its number, from 1 on) and ``box_source``.
    """
    ids = {} if image_id is None else dict(image_id=image_id)
    return [
        ids
        | dict(category_id=1, bbox=corners_as_bbox(box), score=float(score), expression=writable(text))
        | dict(sentence=number, box_source=source)
        for number, (text, boxes, scores, source) in enumerate(
            zip(texts, pred_boxes, pred_box_scores, box_source, strict=True), 1
        )
        for box, score in zip(boxes, scores, strict=True)
    ]


def corners_as_bbox(box: np.ndarray) -> list[float]:
    """COCO's ``bbox``, left, top, width and height, of (4,) left, top, right and bottom."""
    left, top, right, bottom = (float(edge) for edge in box)
    return [left, top, right - left, bottom - top]
