"""Masks of annotation files, in every form that people have, as one compressed RLE each; what is none is refused.

Nothing reaches pycocotools' C code that it would read past the end of, or take for something else.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

# Farther out there is no image; pycocotools counts in 32 bits, five to a pixel.
LARGEST_COORDINATE = 1e6
POLYGON = 'a flat list of coordinates [x0, y0, x1, y1, ...]'
# A run of pixels has at most 35 bits in five-bit pieces.
LONGEST_CODE = 7


def whole_number(value: Any) -> int | None:
    """A number without fraction, as pandas writes it too (``1.0``), as int; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    if isinstance(value, numbers.Integral):
        return int(value)
    return int(float(value)) if float(value).is_integer() else None


def segmentation_to_rle(segmentation: Sequence | dict, height: int, width: int) -> dict:
    """Any form of a mask as one compressed RLE.

    Args:
        segmentation: Polygons [[x0, y0, x1, y1, ...], ...]; an RLE dict, compressed or not; or a list of such dicts, or
            of both (RefCLEF, RRSIS-D). The mask is the union of all parts.
        height: Image height in pixels.
        width: Image width in pixels.

    Returns:
        ``dict(size=[height, width], counts=bytes)``.

    Raises:
        ValueError: If it is none of the forms, a coordinate is no number, or an RLE is of another size or does not fill
            it.
    """
    if isinstance(segmentation, dict):
        return _checked_rle(segmentation, height, width)
    if not isinstance(segmentation, (list, tuple)):
        raise ValueError(f'it is a {type(segmentation).__name__}, not a list of polygons or an RLE')
    polygons: list[list[float]] = []
    rles: list[dict] = []
    for index, part in enumerate(segmentation):
        try:
            if isinstance(part, dict):
                rles.append(_checked_rle(part, height, width))
            elif polygon := _checked_polygon(part):
                polygons.append(polygon)
        except ValueError as error:
            where = f'part {index + 1} of {len(segmentation)}: ' if len(segmentation) > 1 else ''
            raise ValueError(f'{where}{error}') from error
    if polygons:
        rles += coco_mask.frPyObjects(polygons, height, width)
    if not rles:
        return coco_mask.frPyObjects(dict(size=[height, width], counts=[height * width]), height, width)
    return coco_mask.merge(rles)


def _checked_polygon(polygon: Any) -> list[float]:
    """A polygon as pycocotools takes it; empty where it has no area."""
    if not isinstance(polygon, (list, tuple)):
        raise ValueError(f'a polygon is {POLYGON}, not {_shown(polygon)}')
    try:
        coordinates = np.array(polygon)
    except ValueError:  # Lists of several lengths in it.
        coordinates = np.array(None)
    if len(polygon) and (coordinates.ndim != 1 or coordinates.dtype.kind not in 'iuf'):
        raise ValueError(f'a polygon is {POLYGON}, not {_shown(polygon)}')
    outside = ~(np.abs(coordinates.astype(float)) <= LARGEST_COORDINATE)  # So that NaN is too.
    if outside.any():
        raise ValueError(f'{polygon[int(outside.argmax())]} is no coordinate in an image')
    if len(polygon) % 2:
        raise ValueError('a polygon has an odd number of coordinates')
    # One of fewer than three points has no area, and pycocotools takes one of two points for a box.
    return coordinates.tolist() if len(polygon) >= 6 else []


def _checked_rle(rle: dict, height: int, width: int) -> dict:
    size = rle.get('size')
    sides = [whole_number(side) for side in size] if isinstance(size, (list, tuple)) else None
    if sides != [height, width]:
        raise ValueError(f'its RLE has size {_shown(size)}, but the image has [{height}, {width}]')
    counts = rle.get('counts')
    if isinstance(counts, str):
        if not counts.isascii():
            raise ValueError('its compressed RLE has characters that are no code of it')
        counts = counts.encode()
    if isinstance(counts, bytes):
        _check_runs(runs_of(counts), height, width)
        return dict(size=[height, width], counts=counts)
    runs = [whole_number(count) for count in counts] if isinstance(counts, (list, tuple)) else None
    if runs is None or any(run is None for run in runs):
        raise ValueError(f'counts of its RLE are {_shown(counts)}, not a list of whole numbers or a compressed string')
    _check_runs(runs, height, width)
    return coco_mask.frPyObjects(dict(size=[height, width], counts=runs), height, width)


def _check_runs(runs: Any, height: int, width: int) -> None:
    """Raise ValueError unless runs of pixels fill an image exactly."""
    if len(runs) and min(runs) < 0:
        raise ValueError(f'its RLE has a run of {min(runs)} pixels')
    total = int(sum(int(run) for run in runs)) if isinstance(runs, list) else int(runs.sum())
    if total != height * width:
        raise ValueError(f'its RLE has {total} pixels and does not cover the {height} x {width} of the image')


def runs_of(counts: bytes) -> np.ndarray:
    """Runs of pixels in COCO's compressed RLE, alternately outside and inside of the mask.

    A run is written in pieces of five bits, the lowest first; the sixth bit says that another one follows, and the
    highest one of the last piece is the sign. From the fourth on it is the difference to the run before the last.

    Args:
        counts: The compressed string.

    Returns:
        (N,) int64; negative ones, which no mask has, are left in.

    Raises:
        ValueError: If it is no such code.
    """
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if codes.size == 0:
        return codes
    if codes.min() < 0 or codes.max() > 63:
        raise ValueError('its compressed RLE has characters that are no code of it')
    ends = np.flatnonzero(codes < 32)
    if ends.size == 0 or ends[-1] != codes.size - 1:
        raise ValueError('its compressed RLE ends in the middle of a run')
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > LONGEST_CODE:
        raise ValueError('its compressed RLE has a run that no image holds')
    places = np.arange(codes.size) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & 31) << (5 * places), starts)
    runs -= (codes[ends] >= 16).astype(np.int64) << (5 * lengths)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'
