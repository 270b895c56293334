"""Boxes of referred objects: arrays (K, 4) of left, top, right, bottom in pixels; pixel i reaches from i to i + 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ..utils.letterbox import LetterboxGeometry


def read_box(bbox: Any, height: int, width: int) -> np.ndarray:
    """A box of COCO's annotations, cut to the image.

    Args:
        bbox: ``[left, top, width, height]`` in pixels.
        height: Of the image.
        width: Likewise.

    Returns:
        (4,) float32: left, top, right, bottom.

    Raises:
        ValueError: If it is no list of four finite numbers, has no area, or lies outside of the image.
    """
    try:
        values = np.array(bbox, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f'bbox {bbox!r} is no list of four numbers') from error
    if values.shape != (4,) or not np.isfinite(values).all():
        raise ValueError(f'bbox {bbox!r} is no list of four finite numbers (left, top, width, height)')
    if values[2:].min() <= 0:
        raise ValueError(f'bbox {bbox!r} has no area: width and height must be positive')
    corners = np.concatenate([values[:2], values[:2] + values[2:]])
    inside = corners.clip(0, [width, height, width, height])
    if (inside[2:] <= inside[:2]).any():
        raise ValueError(f'bbox {bbox!r} lies outside of the image, which has {height} x {width} pixels (H x W)')
    return inside.astype(np.float32)


def box_of_mask(rle: Mapping[str, Any]) -> np.ndarray | None:
    """The smallest box around a mask.

    Args:
        rle: The mask as compressed RLE.

    Returns:
        (4,) float32, None where the mask has no pixel.
    """
    left, top, width, height = coco_mask.toBbox(dict(rle))
    return np.array([left, top, left + width, top + height], dtype=np.float32) if width > 0 and height > 0 else None


def boxes_of(bboxes: Sequence[Any], rles: Sequence[Mapping[str, Any]], height: int, width: int) -> np.ndarray:
    """The boxes of the annotations that a sentence means: theirs, or those of their masks where they have none.

    Args:
        bboxes: One for each annotation, see :func:`read_box`; None where it has none.
        rles: Their masks.
        height: Of the image in pixels.
        width: Likewise.

    Returns:
        (K, 4) float32. An annotation with neither box nor pixel adds none.

    Raises:
        ValueError: See :func:`read_box`.
    """
    found = [
        box_of_mask(rle) if bbox is None else read_box(bbox, height, width)
        for bbox, rle in zip(bboxes, rles, strict=True)
    ]
    return np.array([box for box in found if box is not None], dtype=np.float32).reshape(-1, 4)


def letterbox_boxes(boxes: np.ndarray, geometry: LetterboxGeometry) -> np.ndarray:
    """Boxes of the original image in the letterboxed one.

    A geometry maps centres of pixels, which lie half a pixel from the edges that boxes are made of.

    Args:
        boxes: (..., 4) left, top, right, bottom.
        geometry: What :func:`~mmetris.utils.letterbox.letterbox_geometry` gave for the image.
    """
    scale, left, top = geometry
    offset = np.array([left, top, left, top])
    return ((boxes - 0.5) * scale + offset + 0.5).astype(boxes.dtype)


def undo_letterbox_boxes(boxes: np.ndarray, geometry: LetterboxGeometry) -> np.ndarray:
    """The inverse of :func:`letterbox_boxes`; arguments likewise. Boxes are not cut to the image."""
    scale, left, top = geometry
    offset = np.array([left, top, left, top])
    return ((boxes - 0.5 - offset) / scale + 0.5).astype(boxes.dtype)
