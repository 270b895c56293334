"""Convolution, normalisation and ReLU as one unit, and the one that brings an encoder's map to the decoder's grid."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType

from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

BATCH_NORM: Mapping = MappingProxyType(dict(type='BN'))


class ConvNormReLU(nn.Sequential):
    """A bias-free convolution, a normalisation and ReLU.

    mmcv's ``ConvModule`` differs in the initial weights: there Kaiming's normal distribution by fan-out, here what
    torch gives the layer, which the published recipe's learning rate was chosen with.

    Args:
        conv: The convolution or deconvolution.
        norm_cfg: Normalisation layer in MMCV's form, e.g. ``dict(type='SyncBN')``.

    Shape:
        (B, conv.in_channels, H, W) -> (B, conv.out_channels, H', W')
    """

    conv: nn.Module
    norm: nn.Module
    relu: nn.Module

    def __init__(self, conv: nn.Module, norm_cfg: Mapping = BATCH_NORM) -> None:
        norm = build_norm_layer(dict(norm_cfg), conv.out_channels)[1]
        super().__init__(OrderedDict(conv=conv, norm=norm, relu=nn.ReLU(inplace=True)))


class MapProjection(ConvNormReLU):
    """Bring one stage's map to the decoder's width and stride (ETRIS, eq. (6)).

    The change of stride is made by one layer whose kernel equals its step: a 2x2 convolution halves the grid, a 2x2
    deconvolution doubles it, a 1x1 convolution keeps it. Sides that do not divide lose their last row or column.

    Args:
        in_channels: Width of the stage's map.
        channels: Width of the decoder.
        in_stride: Stride of the stage's map in input pixels.
        stride: Stride of the decoder in input pixels.
        norm_cfg: Normalisation layer. Defaults to batch normalisation.

    Shape:
        (B, in_channels, H, W) -> (B, channels, H * in_stride / stride, W * in_stride / stride)

    Raises:
        ValueError: If neither stride divides the other.
    """

    def __init__(
        self, in_channels: int, channels: int, in_stride: int, stride: int, norm_cfg: Mapping = BATCH_NORM
    ) -> None:
        if in_stride < 1 or stride < 1 or (stride % in_stride and in_stride % stride):
            raise ValueError(
                f'stride={stride} of the decoder and in_stride={in_stride} of the map must be positive '
                'and one must divide the other'
            )
        if in_stride > stride:
            ratio = in_stride // stride
            layer: type[nn.Module] = nn.ConvTranspose2d
        else:
            ratio = stride // in_stride
            layer = nn.Conv2d
        super().__init__(layer(in_channels, channels, ratio, stride=ratio, bias=False), norm_cfg)

    def forward(self, feature_map: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, H', W')."""
        return super().forward(feature_map)
