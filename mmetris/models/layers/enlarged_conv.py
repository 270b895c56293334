"""Bilinear enlargement followed by a convolution, with the convolution's products made before the enlargement."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmetris.utils.autocast import dtype_of_products
from mmetris.utils.tables import shared_table

from .conv_norm import BATCH_NORM, ConvNormReLU
from .shortcut import keeps_grid

# Types in which reordering was measured to gain, on CPUs; compilers and exporters have patterns for the layers.
REORDERED = (torch.float32, torch.float64, torch.bfloat16)


def enlarged_conv(feature_map: Tensor, weight: Tensor, scale: int = 2, align_corners: bool = False) -> Tensor:
    """``conv2d(interpolate(feature_map, scale), weight, padding=side // 2)`` with ``1 / scale ** 2`` of its products.

    Both steps are linear, and the enlargement treats every channel alike. So each of the kernel's taps is a 1x1
    convolution of the small map, followed by enlargement and by the tap's shift. Of a row, the latter two are one small
    matrix, with the zero padding in it. Autograd keeps the small map, where the literal order keeps the large one.

    Args:
        feature_map: (B, C, H, W).
        weight: (C_out, C, S, S), S odd.
        scale: How many times the sides grow. Defaults to 2.
        align_corners: How the bilinear enlargement places the grid's corners, see
            :func:`torch.nn.functional.interpolate`. Defaults to False.

    Returns:
        (B, C_out, scale * H, scale * W).
    """
    batch, channels, height, width = feature_map.shape
    out_channels, _, side, _ = weight.shape
    options = side, scale, align_corners, feature_map.dtype
    down = _enlarge_and_shift(height, *options).transpose(0, 1).flatten(1)  # (scale * H, S * H)
    across = _enlarge_and_shift(width, *options).transpose(1, 2)  # (S, W, scale * W)
    rows: Tensor | None = None
    for tap in range(side):  # One of the kernel's columns at a time takes a third of the memory.
        column = weight[..., tap].transpose(1, 2).reshape(-1, channels, 1, 1)  # (C_out * S, C, 1, 1)
        # By the library of convolutions, which was faster than that of matrix products, forward and backward.
        products = F.conv2d(feature_map, column).contiguous().view(-1, width)
        rows = products @ across[tap] if rows is None else rows.addmm_(products, across[tap])
    assert rows is not None  # A kernel has columns.
    rows = rows.view(batch * out_channels, side * height, -1)
    return torch.bmm(down.expand(len(rows), -1, -1), rows).view(batch, out_channels, scale * height, -1)


@shared_table
def _enlarge_and_shift(length: int, side: int, scale: int, align_corners: bool, dtype: torch.dtype) -> Tensor:
    """Enlargement of a row of that length, then each tap's shift, zeros moving in: (side, scale * length, length)."""
    unit_rows = torch.eye(length, dtype=torch.float64)[:, None]  # which autocast leaves alone
    enlarged = F.interpolate(unit_rows, scale_factor=scale, mode='linear', align_corners=align_corners)[:, 0].T
    padded = F.pad(enlarged, (0, 0, side // 2, side // 2))
    return torch.stack([padded[tap : tap + scale * length] for tap in range(side)]).to(dtype)


class EnlargedConvNormReLU(ConvNormReLU):
    """Bilinear enlargement, a bias-free convolution that keeps the grid, a normalisation and ReLU.

    Args:
        in_channels: Width of the map.
        out_channels: Width of the result.
        kernel_size: Odd side of the convolution's kernel. Defaults to 3.
        scale: How many times the sides grow. Defaults to 2.
        align_corners: How the enlargement places the grid's corners, see :func:`torch.nn.functional.interpolate`.
        norm_cfg: Normalisation layer. Defaults to batch normalisation.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, scale * H, scale * W)

    Raises:
        ValueError: If ``kernel_size`` is even.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        scale: int = 2,
        align_corners: bool = False,
        norm_cfg: Mapping = BATCH_NORM,
    ) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f'kernel_size must be odd, but it is {kernel_size}')
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False), norm_cfg
        )
        self.scale = scale
        self.align_corners = align_corners

    def forward(self, feature_map: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, scale * H, scale * W)."""
        dtype = dtype_of_products(feature_map)
        known_to_gain = feature_map.device.type == 'cpu' and dtype in REORDERED
        gains = known_to_gain and not torch.compiler.is_compiling()
        if not (gains and keeps_grid(self.conv) and self.conv.bias is None):
            return self.literal_forward(feature_map)
        rows = enlarged_conv(feature_map.to(dtype), self.conv.weight.to(dtype), self.scale, self.align_corners)
        return self.relu(self.norm(rows))

    def literal_forward(self, feature_map: Tensor) -> Tensor:
        """The same, each layer in its turn."""
        return super().forward(
            F.interpolate(feature_map, scale_factor=self.scale, mode='bilinear', align_corners=self.align_corners)
        )
