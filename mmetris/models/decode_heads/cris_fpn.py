"""CRIS's "cross-modal neck", which fuses three maps and the sentence, as a part of the head.

"CRIS: CLIP-Driven Referring Image Segmentation", CVPR 2022, https://arxiv.org/abs/2111.15174.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmetris.registry import MODELS
from mmetris.utils.shapes import hw_of

from ..layers.conv_norm import BATCH_NORM, ConvNormReLU
from ..layers.coord_conv import CoordConv
from ..layers.zoom import match_grid
from .hierarchical_alignment import check_maps


class SentenceProjection(nn.Module):
    """A bias-free linear layer, a normalisation and ReLU, whose result is a map of one pixel.

    As a map it is normalised by any layer that maps are: batch normalisation of it is BatchNorm1d of the vectors.

    Args:
        sentence_channels: Width of the sentence feature.
        channels: Width of the result.
        norm_cfg: Normalisation layer. Defaults to batch normalisation.
    """

    def __init__(self, sentence_channels: int, channels: int, norm_cfg: Mapping = BATCH_NORM) -> None:
        super().__init__()
        self.linear = nn.Linear(sentence_channels, channels, bias=False)
        self.norm = build_norm_layer(dict(norm_cfg), channels)[1]

    def forward(self, sentence: Tensor) -> Tensor:
        """(B, sentence_channels) -> (B, channels, 1, 1), not negative."""
        return self.norm(self.linear(sentence)[..., None, None]).relu()


@MODELS.register_module()
class CRISFPN(BaseModule):
    """Fuse three maps, of which the sentence multiplies the coarsest; takes the place of hierarchical alignment.

    ::

        coarse, stride 2 s    --1x1--> x sentence, norm, ReLU = c --------------------> 3x3, x2 --+
                                                              | x2                                |
        middle, stride s      --3x3--> concatenate with c, 1x1 = m -------------------> 3x3 ------+-> concatenate
                                                              |                                   |
        fine, stride s / 2    --3x3--> half size, concatenate with m, 1x1 = f --------> 3x3 ------+

        concatenation --1x1--> append (x, y) --> two 3x3 convs

    Each convolution is followed by a normalisation and ReLU; grids are doubled bilinearly and halved by averaging. In
    an :class:`ETRISHead` it goes with ``text_projection=False``: its own projection reads the sentence as it is.

    Args:
        in_channels: Widths of the maps, the finest first.
        in_strides: Strides of the maps in input pixels: ``stride / 2``, ``stride`` and ``2 * stride``.
        sentence_channels: Width of the sentence feature.
        channels: Width D of the result, even; the maps are brought to D / 2, D and 2 D. Defaults to 512.
        num_heads: Unused, there is no attention; the head passes it. Defaults to None.
        stride: Stride of the result in input pixels. Defaults to 16.
        norm_cfg: Normalisation after each convolution and after the sentence's linear layer. Defaults to batch
            normalisation, with which training needs two sentences or more at a time.
        init_cfg: Initial weights, see MMEngine. Defaults to None: those of torch's layers.

    Raises:
        ValueError: If there are not three maps of these strides, or ``channels`` is odd.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        sentence_channels: int,
        channels: int = 512,
        num_heads: int | None = None,
        stride: int = 16,
        norm_cfg: Mapping = BATCH_NORM,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_maps(in_channels, in_strides)
        if stride % 2 or tuple(in_strides) != (stride // 2, stride, 2 * stride):
            raise ValueError(
                f'CRISFPN with stride={stride} reads three maps, of half that stride, that stride and twice that '
                f'stride, but in_strides={tuple(in_strides)}'
            )
        if channels % 2:
            raise ValueError(f'channels must be even, but it is {channels}')
        unit = partial(_conv_norm_relu, norm_cfg=norm_cfg)
        fine, middle, coarse = channels // 2, channels, 2 * channels
        self.text_projection = SentenceProjection(sentence_channels, coarse, norm_cfg)
        # Numbered as the maps are.
        self.projections = nn.ModuleList(
            unit(width, out, side) for width, out, side in zip(in_channels, (fine, middle, coarse), (3, 3, 1))
        )
        self.gate_norm = build_norm_layer(dict(norm_cfg), coarse)[1]
        self.merges = nn.ModuleList((unit(fine + channels, channels, 1), unit(middle + coarse, channels, 1)))
        self.outputs = nn.ModuleList(unit(width, channels, 3) for width in (channels, channels, coarse))
        self.fuse = unit(3 * channels, channels, 1)
        self.coord_conv = CoordConv(channels, channels, norm_cfg=norm_cfg)
        self.refine = unit(channels, channels, 3)

    def forward(self, maps: Sequence[Tensor], sentence: Tensor) -> Tensor:
        """Fuse the maps.

        Args:
            maps: Three maps ``(B, C_i, H_i, W_i)``, the finest first. Where their sides are no multiples of each other,
                the middle one sets the grid.
            sentence: Sentence features ``(B, sentence_channels)``.

        Returns:
            Fused map ``(B, channels, H, W)`` at ``stride``, not negative.

        Raises:
            ValueError: If ``sentence`` holds the K class names of an image, (B, K, C'): the coarsest map is multiplied
                by one vector.
        """
        if sentence.dim() != 2:
            raise ValueError(
                'CRISFPN reads one sentence for each image, (B, C), but got features of shape '
                f'{tuple(sentence.shape)}; for class names take HierarchicalAlignment'
            )
        fine, middle, coarse = (project(feature_map) for project, feature_map in zip(self.projections, maps))
        grid = hw_of(middle)
        coarse = self.gate_norm(coarse * self.text_projection(sentence)).relu()
        middle = self.merges[1](torch.cat((middle, match_grid(coarse, grid)), dim=1))
        fine = self.merges[0](torch.cat((match_grid(F.avg_pool2d(fine, 2), grid), middle), dim=1))
        levels = [output(level) for output, level in zip(self.outputs, (fine, middle, coarse))]
        levels[2] = match_grid(levels[2], grid)
        return self.refine(self.coord_conv(self.fuse(torch.cat(levels, dim=1))))


def _conv_norm_relu(in_channels: int, channels: int, side: int, norm_cfg: Mapping) -> ConvNormReLU:
    conv = nn.Conv2d(in_channels, channels, side, padding=side // 2, bias=False)
    return ConvNormReLU(conv, norm_cfg)
