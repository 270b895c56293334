"""A BatchNorm that cannot move, folded into the convolution before it."""

from __future__ import annotations

import torch
from open_clip.modified_resnet import Bottleneck
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmetris.utils.autocast import dtype_of_products
from mmetris.utils.tensor_memo import TensorMemo

from .shortcut import exchange_modules, is_plain, take_over

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def conv_norm(conv: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    """``norm(conv(x))``, in one step where the BatchNorm is a fixed scale and shift.

    It is where nothing of both asks for a gradient, BatchNorm uses its statistics (evaluation mode, as in a frozen
    encoder also in training), and both are plain (:func:`~mmetris.models.layers.shortcut.is_plain`). Then the scale is
    multiplied into the convolution's weights once, and again only after one of the tensors has changed; neither the
    pass over the features nor their copy for the backward pass is needed. The price is a second copy of these weights,
    in no state dict. Autocast finds it in its own type already.

    Args:
        conv: Convolution, or whatever stands in its place.
        norm: BatchNorm, or SyncBatchNorm, of its output, or whatever stands in its place.
        x: (B, C_in, H, W).

    Returns:
        (B, C_out, H', W').
    """
    if not (is_plain(conv, nn.Conv2d) and is_plain(norm, *NORMS)):
        return norm(conv(x))
    tensors = (conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var)
    moves = norm.training or norm.running_mean is None or norm.weight is None
    if moves or any(tensor is not None and tensor.requires_grad for tensor in tensors):
        return norm(conv(x))
    layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last  # One of them would move all.
    weight, bias = _folded(conv, norm, tensors, layout)
    return conv._conv_forward(x, weight, bias)


def _folded(
    conv: nn.Conv2d, norm: _BatchNorm, tensors: tuple[Tensor | None, ...], layout: torch.memory_format
) -> tuple[Tensor, Tensor]:
    """Weights and bias of the folded convolution, kept with the convolution."""
    # What FSDP has gathered for a moment is no parameter, and not to be kept.
    if torch.compiler.is_compiling() or not isinstance(conv.weight, nn.Parameter):
        return _fold(conv, norm, layout, conv.weight.dtype)
    dtype = dtype_of_products(conv.weight)
    memo = vars(conv).setdefault('_kept_fold', TensorMemo())
    return memo.get((layout, dtype, norm.eps), tensors, lambda: _fold(conv, norm, layout, dtype))


def _fold(conv: nn.Conv2d, norm: _BatchNorm, layout: torch.memory_format, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None  # They come together; conv_norm has looked.
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    weight = conv.weight * scale[:, None, None, None]
    return weight.to(dtype, memory_format=layout), shift.to(dtype)


class FoldedBottleneck(Bottleneck):
    """CLIP's residual block, by :func:`conv_norm`. Parameters and their names are open_clip's."""

    @classmethod
    def of(cls, block: Bottleneck) -> FoldedBottleneck:
        """A block with the parts of another one, shared."""
        with torch.device('meta'):
            folded = cls(block.conv1.in_channels, block.conv1.out_channels, block.stride)
        return take_over(folded, block)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""
        out = self.act1(conv_norm(self.conv1, self.bn1, x))
        out = self.act2(conv_norm(self.conv2, self.bn2, out))
        out = conv_norm(self.conv3, self.bn3, self.avgpool(out))
        out += self._shortcut(x)
        return self.act3(out)

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.downsample is None:
            return x
        if not is_plain(self.downsample, nn.Sequential) or len(self.downsample) != 3:
            return self.downsample(x)
        pool, conv, norm = self.downsample
        return conv_norm(conv, norm, pool(x))


def fold_norms(module: nn.Module) -> nn.Module:
    """Put a :class:`FoldedBottleneck` in the place of every :class:`Bottleneck` of open_clip in a module.

    Args:
        module: The module, changed in place; parameters stay the same objects under the same names.

    Returns:
        The module.
    """
    return exchange_modules(module, Bottleneck, FoldedBottleneck.of)
