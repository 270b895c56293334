"""Clicks as tensors, and their way from the photograph to the network's input and back.

Points are (x, y) in pixels with pixel centres at integers, as in :mod:`mmetris.utils.letterbox`. A label is 1 (belongs
to the mask), 0 (does not), or ``NO_CLICK`` where a row of a batch has fewer clicks than others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

NEGATIVE, POSITIVE, NO_CLICK = 0, 1, -1


class Click(NamedTuple):
    """One click.

    Attributes:
        x: Column in pixels.
        y: Row in pixels.
        label: ``POSITIVE`` or ``NEGATIVE``.
    """

    x: float
    y: float
    label: int


def read_clicks(
    points: Sequence[Sequence[float]] | np.ndarray, labels: Sequence[int] | np.ndarray, image_hw: tuple[int, int]
) -> list[Click]:
    """Clicks as users give them.

    Args:
        points: (x, y) of each in pixels of the image.
        labels: 1 or 0 for each.
        image_hw: Size of the image.

    Raises:
        ValueError: If the two differ in length, a point is none or lies outside of the image, or a label is neither 1
            nor 0.
    """
    points, labels = list(points), list(labels)
    if len(points) != len(labels):
        raise ValueError(f'each point needs a label, but there are {len(points)} points and {len(labels)} labels')
    height, width = image_hw
    clicks = []
    for number, (point, label) in enumerate(zip(points, labels)):
        if len(point) != 2 or not all(isinstance(value, Real) for value in point):
            raise ValueError(f'points[{number}]={point!r} is no (x, y)')
        x, y = map(float, point)
        if not (0 <= x < width and 0 <= y < height):  # NaN neither.
            raise ValueError(
                f'points[{number}]=({x:g}, {y:g}) is outside of the image: x is from 0 to {width - 1} and y from 0 to '
                f'{height - 1}'
            )
        if label not in (POSITIVE, NEGATIVE):
            raise ValueError(f'labels[{number}]={label!r} must be 1 (belongs to the mask) or 0 (does not)')
        clicks.append(Click(x, y, int(label)))
    return clicks


def to_input(clicks: Sequence[Click], metainfo: Mapping[str, Any]) -> list[Click]:
    """Clicks on the original image as clicks on the network's input.

    Args:
        clicks: On the original image.
        metainfo: Meta information of the image's sample: its ``letterbox``, or ``scale_factor`` of another resizing.

    Raises:
        ValueError: If the image was flipped.
    """
    across, down, left, top = _resizing(metainfo)
    return [Click(across * x + left, down * y + top, label) for x, y, label in clicks]


def to_original(clicks: Sequence[Click], metainfo: Mapping[str, Any]) -> list[Click]:
    """The inverse of :func:`to_input`; arguments likewise."""
    across, down, left, top = _resizing(metainfo)
    return [Click((x - left) / across, (y - top) / down, label) for x, y, label in clicks]


def _resizing(metainfo: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Factors of x and y from the original image to the input, and what is added to both."""
    if metainfo.get('flip'):
        raise ValueError('clicks on flipped images are not supported: leave the flip out of the test pipeline')
    if 'letterbox' in metainfo:
        scale, left, top = metainfo['letterbox']
        return scale, scale, left, top
    across, down = metainfo.get('scale_factor', (1, 1))[:2]
    return across, down, 0.5 * across - 0.5, 0.5 * down - 0.5


def stack_clicks(rows: Sequence[Sequence[Click]], device: torch.device | str = 'cpu') -> tuple[Tensor, Tensor]:
    """Clicks of B rows as tensors.

    Args:
        rows: The clicks of each row.
        device: Where they go.

    Returns:
        Points (B, K, 2) and labels (B, K), K being the largest number of clicks; rows with fewer are filled up with
        ``NO_CLICK``.
    """
    longest = max(map(len, rows), default=0)
    points = torch.zeros(len(rows), longest, 2)
    labels = torch.full((len(rows), longest), NO_CLICK)
    for row, clicks in enumerate(rows):
        for place, (x, y, label) in enumerate(clicks):
            points[row, place] = torch.tensor([x, y])
            labels[row, place] = label
    return points.to(device), labels.to(device)
