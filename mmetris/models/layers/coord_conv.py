"""Convolution that knows where it is (Liu et al., "An Intriguing Failing of Convolutional Neural Networks", 2018)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmetris.utils.shapes import hw_of
from mmetris.utils.tables import shared_table

from .conv_norm import BATCH_NORM, ConvNormReLU


def coordinate_maps(
    size: tuple[int, int], device: torch.device | str = 'cpu', dtype: torch.dtype = torch.float32
) -> Tensor:
    """Coordinates of a grid's cells: x from -1 in the first column to 1 in the last, y in the same way over the rows.

    Args:
        size: Grid (H, W). A side of one cell has the coordinate -1.
        device: Where the maps are wanted.
        dtype: Their type.

    Returns:
        ``(2, H, W)``: x, then y, in [-1, 1]. It is shared between callers: do not change it in place.
    """
    return _coordinate_maps(tuple(size), torch.device(device), dtype)


@shared_table
def _coordinate_maps(size: tuple[int, int], device: torch.device, dtype: torch.dtype) -> Tensor:
    height, width = size
    x = torch.linspace(-1, 1, width, device=device, dtype=dtype).expand(height, width)
    y = torch.linspace(-1, 1, height, device=device, dtype=dtype)[:, None].expand(height, width)
    return torch.stack((x, y))


class CoordConv(nn.Module):
    """Append the two coordinates in [-1, 1] to a map, then convolution, normalisation and ReLU (ETRIS, eq. (7)).

    Args:
        in_channels: Width of the map without coordinates.
        out_channels: Width of the result.
        kernel_size: Odd side of the convolution's kernel; the grid is kept. Defaults to 3.
        norm_cfg: Normalisation layer. Defaults to batch normalisation.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, H, W)
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, norm_cfg: Mapping = BATCH_NORM
    ) -> None:
        super().__init__()
        self.conv = ConvNormReLU(
            nn.Conv2d(in_channels + 2, out_channels, kernel_size, padding=kernel_size // 2, bias=False), norm_cfg
        )

    def forward(self, feature_map: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        batch, size = feature_map.shape[0], hw_of(feature_map)
        coordinates = coordinate_maps(size, feature_map.device, feature_map.dtype).expand(batch, -1, -1, -1)
        return self.conv(torch.cat((feature_map, coordinates), dim=1))
