"""From a map and the sentence to mask logits: the Projector (ETRIS, Sec. 3.3, eq. (9)) and a plain dot product."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmetris.registry import MODELS

from ..layers.conv_norm import BATCH_NORM
from ..layers.enlarged_conv import EnlargedConvNormReLU
from ..layers.shortcut import is_plain, keeps_grid


def dynamic_conv(feature_map: Tensor, weight: Tensor, bias: Tensor, tap_bias: Tensor | None = None) -> Tensor:
    """Convolve every sample with its own kernels; the grid is kept by zero padding.

    Args:
        feature_map: ``(B, C, H, W)``.
        weight: One kernel for each sample, ``(B, C, S, S)``, S odd; or K of them, ``(B, K, C, S, S)``.
        bias: ``(B,)`` or ``(B, K)``.
        tap_bias: What each tap adds where it lies on the map, not on the padding: ``(B, S, S)`` or ``(B, K, S, S)``.
            Defaults to None: nothing.

    Returns:
        ``(B, 1, H, W)`` or ``(B, K, H, W)``.
    """
    side = int(weight.shape[-1])  # a tensor while torch.jit traces
    if weight.dim() == 4:
        weight = weight[:, None]
        tap_bias = None if tap_bias is None else tap_bias[:, None]
    # Each of the S * S taps is a dot product at every pixel; folding adds them up, each shifted to the pixel that reads
    # it: the kernel reversed. A grouped convolution says the same and took ten times as long (CPU, 256 channels).
    taps = weight.flatten(3).flip(3).transpose(2, 3).flatten(1, 2) @ feature_map.flatten(2)
    if tap_bias is not None:
        taps = taps + tap_bias.flatten(2).flip(2).flatten(1)[..., None]
    folded = F.fold(taps, feature_map.shape[-2:], side, padding=side // 2)
    return folded + bias.view(bias.shape[0], -1, 1, 1)


def before_pointwise(weight: Tensor, conv: nn.Conv2d) -> tuple[Tensor, Tensor | None]:
    """Kernels that find in the input of a 1x1 convolution what the given ones find in its output.

    Args:
        weight: ``(..., C_out, S, S)``.
        conv: From C_in to C_out channels.

    Returns:
        Kernels ``(..., C_in, S, S)``, and what the convolution's bias makes each tap add, ``(..., S, S)``: the
        ``weight`` and ``tap_bias`` of :func:`dynamic_conv`.
    """
    taps = weight.movedim(-3, -1)
    tap_bias = None if conv.bias is None else taps @ conv.bias
    return (taps @ conv.weight.flatten(1)).movedim(-1, -3), tap_bias


@MODELS.register_module()
class Projector(BaseModule):
    """Enlarge the map four times and convolve it with a kernel made from the sentence (ETRIS, eq. (9)).

    Args:
        sentence_channels: Width of the sentence feature.
        channels: Width D of the map. Defaults to 512, as in the paper; the kernel works at half of it.
        kernel_size: Odd side K of the sentence's kernel. Defaults to 3, as in the paper.
        align_corners: How the bilinear enlargement places the grid's corners, see
            :func:`torch.nn.functional.interpolate`.
        norm_cfg: Normalisation after the 3x3 convolutions. Defaults to batch normalisation.
        init_cfg: Initial weights, see MMEngine. Defaults to None: those of torch's layers.

    Raises:
        ValueError: If ``channels`` is odd or ``kernel_size`` is even.
    """

    scale = 4
    """Side of the logits over side of the map."""

    def __init__(
        self,
        sentence_channels: int,
        channels: int = 512,
        kernel_size: int = 3,
        align_corners: bool = False,
        norm_cfg: Mapping = BATCH_NORM,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if channels % 2:
            raise ValueError(f'channels must be even, but it is {channels}')
        if kernel_size % 2 == 0:
            raise ValueError(f'kernel_size must be odd, but it is {kernel_size}')
        half = channels // 2
        self.kernel_shape = (half, kernel_size, kernel_size)
        enlarged = partial(EnlargedConvNormReLU, scale=2, align_corners=align_corners, norm_cfg=norm_cfg)
        # The numbers are those of checkpoints, in which 0 and 2 are enlargements without parameters.
        self.pixel_projection = nn.Sequential(
            OrderedDict(
                {
                    '1': enlarged(channels, channels),
                    '3': enlarged(channels, half),
                    '4': nn.Conv2d(half, half, 1),
                }
            )
        )
        self.kernel_projection = nn.Linear(sentence_channels, half * kernel_size**2 + 1)

    def forward(self, feature_map: Tensor, sentence: Tensor) -> Tensor:
        """(B, channels, H, W), (B, sentence_channels) -> logits (B, 1, 4 H, 4 W).

        K class names, (B, K, sentence_channels), share the pixels: -> (B, K, 4 H, 4 W).
        """
        pointwise = self.pixel_projection[-1]
        known = is_plain(self.pixel_projection, nn.Sequential)
        if not (known and keeps_grid(pointwise) and pointwise.kernel_size == (1, 1)):
            return self.literal_forward(feature_map, sentence)
        weight, bias = self._kernel(sentence)
        # The last convolution acts on the kernel's 9 taps, not on the pixels, of which there are a thousand times more.
        weight, tap_bias = before_pointwise(weight, pointwise)
        return dynamic_conv(self.pixel_projection[:-1](feature_map), weight, bias, tap_bias)

    def literal_forward(self, feature_map: Tensor, sentence: Tensor) -> Tensor:
        """The same, each layer in its turn."""
        return dynamic_conv(self.pixel_projection(feature_map), *self._kernel(sentence))

    def _kernel(self, sentence: Tensor) -> tuple[Tensor, Tensor]:
        kernel = self.kernel_projection(sentence)
        return kernel[..., :-1].unflatten(-1, self.kernel_shape), kernel[..., -1]


@MODELS.register_module()
class DotProductProjector(BaseModule):
    """What is left without a projector: each pixel's dot product with the projected sentence, over ``sqrt(channels)``.

    Args:
        sentence_channels: Width of the sentence feature.
        channels: Width D of the map. Defaults to 512.
        init_cfg: Initial weights, see MMEngine. Defaults to None: those of torch's layers.
    """

    scale = 1
    """Side of the logits over side of the map."""

    def __init__(self, sentence_channels: int, channels: int = 512, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.sentence_projection = nn.Linear(sentence_channels, channels)

    def forward(self, feature_map: Tensor, sentence: Tensor) -> Tensor:
        """(B, channels, H, W), (B, sentence_channels) -> logits (B, 1, H, W).

        K class names, (B, K, sentence_channels), share the pixels: -> (B, K, H, W).
        """
        query = self.sentence_projection(sentence) * feature_map.shape[1] ** -0.5
        query = query[:, None] if query.dim() == 2 else query
        return (query @ feature_map.flatten(2)).unflatten(2, feature_map.shape[2:])
