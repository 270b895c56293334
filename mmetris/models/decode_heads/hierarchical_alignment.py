"""Hierarchical alignment: stages' maps, each weighed by the sentence, become one (ETRIS, Sec. 3.3, eqs. (6), (7))."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmetris.registry import MODELS

from ..layers.attention import Attention
from ..layers.conv_norm import BATCH_NORM, ConvNormReLU, MapProjection
from ..layers.coord_conv import CoordConv
from ..layers.zoom import match_grid


class SentenceGate(nn.Module):
    """Cross-attention of a map's pixels to the sentence, whose result multiplies the pixels (ETRIS, eq. (6)).

    With one sentence there is a single key, so each attention weight is 1 and every pixel is multiplied by the same
    vector, a linear function of the sentence; :class:`Attention` computes nothing else then. The query and key weights
    have no effect and always get a zero gradient; they are kept because the paper's parameter count and the published
    checkpoints contain them. With K class names there are K keys, and each pixel is multiplied by its own mixture.

    Args:
        channels: Width of the map.
        sentence_channels: Width of the sentence feature.
        num_heads: Attention heads.
        dropout: Probability with which, in training, a head ignores the sentence at one pixel.
    """

    def __init__(self, channels: int, sentence_channels: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        # One packed weight where the widths agree, which is the published layout.
        self.attention = Attention(
            channels, num_heads, dropout, kdim=sentence_channels, vdim=sentence_channels, batch_first=True
        )

    def forward(self, feature_map: Tensor, sentence: Tensor) -> Tensor:
        """(B, C, H, W), one sentence (B, C') or K of them (B, K, C') -> (B, C, H, W)."""
        pixels = feature_map.flatten(2).transpose(1, 2)
        keys = sentence[:, None] if sentence.dim() == 2 else sentence
        attended = self.attention(pixels, keys, keys, need_weights=False)[0]
        return (pixels * attended).transpose(1, 2).reshape(feature_map.shape)


@MODELS.register_module()
class HierarchicalAlignment(BaseModule):
    """Fuse maps of several stages under the sentence's guidance (ETRIS, Sec. 3.3 "Hierarchical Alignment Module").

    ::

        map_i -> MapProjection -> SentenceGate -+
        map_j -> MapProjection -> SentenceGate -+-> concatenate -> 1x1 conv -> append (x, y) -> two 3x3 convs
        map_k -> MapProjection -> SentenceGate -+

    With ``residual`` what the two 3x3 convolutions make of the fused map is added to it.

    Args:
        in_channels: Widths of the maps.
        in_strides: Strides of the maps in input pixels.
        sentence_channels: Width of the sentence feature.
        channels: Width D of the decoder. Defaults to 512, as in the paper.
        num_heads: Attention heads. Defaults to 8, as in the paper.
        stride: Stride of the result in input pixels. Defaults to 16, as in the paper.
        dropout: Dropout of the attention weights. Defaults to 0, as in the released code.
        norm_cfg: Normalisation after each convolution. Defaults to batch normalisation.
        residual: Whether the result is added to the fused map, as in DETRIS. Defaults to False.
        init_cfg: Initial weights, see MMEngine. Defaults to None: those of torch's layers.

    Raises:
        ValueError: If ``in_channels`` and ``in_strides`` differ in length or are empty, ``channels`` is no multiple of
            ``num_heads``, or a stride neither divides ``stride`` nor is a multiple of it.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        sentence_channels: int,
        channels: int = 512,
        num_heads: int = 8,
        stride: int = 16,
        dropout: float = 0.0,
        norm_cfg: Mapping = BATCH_NORM,
        residual: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.residual = residual
        check_maps(in_channels, in_strides)
        check_heads(channels, num_heads)
        # Where the projected maps' grids differ by rounding, the one that was projected least sets the grid.
        self.reference = min(range(len(in_strides)), key=lambda i: max(in_strides[i] / stride, stride / in_strides[i]))
        self.projections = nn.ModuleList(
            MapProjection(width, channels, in_stride, stride, norm_cfg)
            for width, in_stride in zip(in_channels, in_strides)
        )
        self.gates = nn.ModuleList(SentenceGate(channels, sentence_channels, num_heads, dropout) for _ in in_channels)
        self.fuse = ConvNormReLU(nn.Conv2d(len(in_channels) * channels, channels, 1, bias=False), norm_cfg)
        self.coord_conv = CoordConv(channels, channels, norm_cfg=norm_cfg)
        self.refine = ConvNormReLU(nn.Conv2d(channels, channels, 3, padding=1, bias=False), norm_cfg)

    def forward(self, maps: Sequence[Tensor], sentence: Tensor) -> Tensor:
        """Fuse the maps.

        Args:
            maps: One map for each entry of ``in_channels``, ``(B, C_i, H_i, W_i)``.
            sentence: Sentence features ``(B, sentence_channels)``, or those of K class names
                ``(B, K, sentence_channels)``.

        Returns:
            Fused map ``(B, channels, H, W)`` at ``stride``, not negative.
        """
        levels = [project(feature_map) for project, feature_map in zip(self.projections, maps)]
        grid = levels[self.reference].shape[-2:]
        levels = [gate(match_grid(level, grid), sentence) for gate, level in zip(self.gates, levels)]
        fused = self.fuse(torch.cat(levels, dim=1))
        refined = self.refine(self.coord_conv(fused))
        return fused + refined if self.residual else refined


def check_maps(in_channels: Sequence[int], in_strides: Sequence[int]) -> None:
    """Raise ValueError unless there is one stride for each of at least one map."""
    if not in_channels or len(in_channels) != len(in_strides):
        raise ValueError(
            'in_channels and in_strides need one entry for each map, '
            f'but they are {tuple(in_channels)} and {tuple(in_strides)}'
        )


def check_heads(channels: int, num_heads: int) -> None:
    """Raise ValueError unless the heads share the channels evenly."""
    if num_heads < 1 or channels % num_heads:
        raise ValueError(f'channels must be a multiple of num_heads, but channels={channels} and num_heads={num_heads}')
