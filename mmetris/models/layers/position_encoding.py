"""Fixed sine position encodings (Vaswani et al. 2017, Sec. 3.5), for words in one dimension and for pixels in two.

They depend on sizes only, so they are no parameters and no buffers: any input size works and checkpoints stay free of
them. Each combination of size, width, device and type is computed once and kept.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmetris.utils.tables import shared_table


def sine_encoding_1d(
    length: int, channels: int, device: torch.device | str = 'cpu', dtype: torch.dtype = torch.float32
) -> Tensor:
    """Encode the places 0 .. length - 1 of a sequence.

    Channel 2k holds ``sin(place / 10000^(2k / channels))``, channel 2k + 1 the cosine of the same angle.

    Args:
        length: Number of places.
        channels: Width of the features that the encoding is added to.
        device: Where the features are.
        dtype: Type of the features. The encoding is always computed in single precision.

    Returns:
        ``(length, channels)`` with values in [-1, 1]. It is shared between callers: do not change it in place.

    Raises:
        ValueError: If ``channels`` is odd.
    """
    if channels % 2:
        raise ValueError(f'channels must be even, a sine and a cosine for each frequency, but it is {channels}')
    return _sine_encoding_1d(length, channels, torch.device(device), dtype)


def sine_encoding_2d(
    size: tuple[int, int], channels: int, device: torch.device | str = 'cpu', dtype: torch.dtype = torch.float32
) -> Tensor:
    """Encode the places of a grid: the first half of the channels encodes the column, the second half the row.

    Args:
        size: Grid (H, W).
        channels: Width of the features that the encoding is added to.
        device: Where the features are.
        dtype: Type of the features. The encoding is always computed in single precision.

    Returns:
        ``(H * W, channels)``, row after row, with values in [-1, 1]. It is shared between callers: do not change it in
        place.

    Raises:
        ValueError: If ``channels`` is no multiple of 4.
    """
    if channels % 4:
        raise ValueError(
            'channels must be a multiple of 4, a sine and a cosine for each frequency of each axis, '
            f'but it is {channels}'
        )
    return _sine_encoding_2d(tuple(size), channels, torch.device(device), dtype)


@shared_table
def _sine_encoding_1d(length: int, channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    exponents = torch.arange(0, channels, 2, device=device, dtype=torch.float32) / channels
    places = torch.arange(length, device=device, dtype=torch.float32)
    angles = places[:, None] * torch.exp(-math.log(10000.0) * exponents)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1).to(dtype)


@shared_table
def _sine_encoding_2d(size: tuple[int, int], channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    height, width = size
    columns = _sine_encoding_1d(width, channels // 2, device, dtype).expand(height, width, -1)
    rows = _sine_encoding_1d(height, channels // 2, device, dtype)[:, None].expand(height, width, -1)
    return torch.cat((columns, rows), dim=-1).flatten(0, 1)
