"""Zoom Layer: between a stage's width and grid and the Bridger's (ETRIS, Sec. 3.2, eq. (1), (3), (4)).

One class serves both directions: zooming out is zooming in with widths exchanged and the scale inverted. Table 5 of
the paper compares four makes of it, told apart by ``kind``; their parameter counts there fix what the text leaves open.
"""

from __future__ import annotations

import math

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

KINDS = ('conv_deconv', 'conv_interpolate', 'linear', 'mlp')
# Hidden width of the position MLP of kind 'mlp': the one that gives Table 5's 1.68 M.
POSITION_MLP_CHANNELS = 64


class ZoomLayer(BaseModule):
    """Bring a feature map to another width and grid.

    Args:
        in_channels: Width of the input.
        out_channels: Width of the output.
        scale: Output grid over input grid: 0.5, 1 or 2.
        kind: What does it. ``'conv_deconv'`` (default, Table 5 (d)): a 2x2 convolution of stride 2, a 1x1
            convolution, or a 2x2 deconvolution of stride 2. ``'conv_interpolate'`` (b): bilinear enlargement and a
            1x1 convolution in the deconvolution's place. ``'linear'`` (a) and ``'mlp'`` (c): a linear layer over
            channels, then a linear layer, or an MLP, over the positions of a grid of fixed size.
        with_norm: Whether BatchNorm and ReLU follow, as they do for a ViT. Defaults to False.
        grid_hw: Input grid, for the kinds that are tied to one.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, ceil(scale * H), ceil(scale * W)), or the grid asked for.

    Raises:
        ValueError: If ``scale`` or ``kind`` is none of these, or a kind that is tied to one grid gets none, or another.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        scale: float = 1,
        kind: str = 'conv_deconv',
        with_norm: bool = False,
        grid_hw: tuple[int, int] | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if scale not in (0.5, 1, 2):
            raise ValueError(f'scale={scale} of a Zoom Layer must be 0.5, 1 or 2')
        if kind not in KINDS:
            raise ValueError(f'kind={kind!r} of a Zoom Layer must be one of {KINDS}')
        self.scale, self.kind = scale, kind
        self.project: nn.Module
        self.positions: nn.Linear | nn.Sequential | None = None
        self.grid_hw: tuple[int, int] | None = None
        if kind in ('linear', 'mlp'):
            if grid_hw is None:
                raise ValueError(
                    f'a Zoom Layer of kind {kind!r} works on one grid only: give grid_hw, its height and width'
                )
            self.grid_hw = grid_hw[0], grid_hw[1]
            self.project = nn.Conv2d(in_channels, out_channels, 1)  # A linear layer over channels.
            num_in = math.prod(self.grid_hw)
            num_out = math.prod(self._scaled(size) for size in self.grid_hw)
            if kind == 'linear':
                self.positions = nn.Linear(num_in, num_out)
            else:
                self.positions = nn.Sequential(
                    nn.Linear(num_in, POSITION_MLP_CHANNELS), nn.ReLU(), nn.Linear(POSITION_MLP_CHANNELS, num_out)
                )
        elif scale == 0.5:
            self.project = nn.Conv2d(in_channels, out_channels, 2, stride=2, bias=False)
        elif scale == 2 and kind == 'conv_deconv':
            self.project = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2, bias=False)
        else:
            self.project = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = nn.Sequential(nn.BatchNorm2d(out_channels), nn.ReLU()) if with_norm else nn.Identity()

    def zero_output(self) -> None:
        """Start with an output of zeros, for the end of a residual branch.

        Raises:
            ValueError: If BatchNorm and ReLU follow: no gradient passes a ReLU at zero, so it could never learn.
        """
        if not isinstance(self.norm, nn.Identity):
            raise ValueError('a Zoom Layer with norm (zoom_norm=True) cannot start at zero: its ReLU would stay there')
        if self.positions is None:
            last = self.project
        else:
            last = self.positions if isinstance(self.positions, nn.Linear) else self.positions[-1]
        for parameter in last.parameters():
            nn.init.zeros_(parameter)

    def _scaled(self, size: int) -> int:
        return math.ceil(size * self.scale)

    def forward(self, feature_map: Tensor, out_hw: tuple[int, int] | None = None) -> Tensor:
        """Zoom.

        Args:
            feature_map: (B, in_channels, H, W).
            out_hw: Grid that is wanted back when an odd one was halved: 13 -> 7 -> 14, cut to 13. Defaults to None:
                all of it.
        """
        height, width = feature_map.shape[-2:]
        if self.grid_hw is not None and self.grid_hw != (height, width):
            raise ValueError(
                f'this Zoom Layer of kind {self.kind!r} was built for a grid of {self.grid_hw}, got {(height, width)}; '
                'use kind "conv_deconv" for inputs of any size'
            )
        if self.scale == 0.5 and self.kind.startswith('conv'):
            # An odd row or column would be dropped by the stride; a zero beside it keeps it.
            feature_map = F.pad(feature_map, (0, width % 2, 0, height % 2))
        zoomed = self.project(feature_map)
        if self.scale == 2 and self.kind == 'conv_interpolate':
            # After the 1x1 convolution, with which interpolation commutes, there are fewer channels to interpolate.
            zoomed = F.interpolate(zoomed, scale_factor=2, mode='bilinear', align_corners=False)
        if self.positions is not None:
            zoomed = self.positions(zoomed.flatten(2)).unflatten(2, (self._scaled(height), self._scaled(width)))
        zoomed = self.norm(zoomed)
        if out_hw is not None:
            zoomed = zoomed[..., : out_hw[0], : out_hw[1]]
        return zoomed

    def extra_repr(self) -> str:
        return f'scale={self.scale}, kind={self.kind!r}'


def match_grid(feature_map: Tensor, grid_hw: torch.Size | tuple[int, int]) -> Tensor:
    """Resize a map (B, C, H, W) bilinearly to another grid, if it differs."""
    if feature_map.shape[-2:] == tuple(grid_hw):
        return feature_map
    return F.interpolate(feature_map, size=tuple(grid_hw), mode='bilinear', align_corners=False)
