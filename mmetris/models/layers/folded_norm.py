"""A BatchNorm that cannot move, folded into the convolution before it."""

from __future__ import annotations

import torch
from open_clip.modified_resnet import Bottleneck
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmetris.utils.autocast import dtype_of_products


def conv_norm(conv: nn.Conv2d, norm: _BatchNorm, x: Tensor) -> Tensor:
    """``norm(conv(x))``, in one step where the BatchNorm is a fixed scale and shift.

    It is where nothing of both asks for a gradient and BatchNorm uses its statistics (evaluation mode, as in a frozen
    encoder also in training). Then the scale is multiplied into the convolution's weights once, and again only after
    one of the tensors has changed; neither the pass over the features nor their copy for the backward pass is needed.
    The price is a second copy of these weights, in no state dict. Autocast finds it in its own type already.

    Args:
        conv: Convolution.
        norm: BatchNorm, or SyncBatchNorm, of its output.
        x: (B, C_in, H, W).

    Returns:
        (B, C_out, H', W').
    """
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
    # Compilers and exporters know no versions, and keep constants themselves; what FSDP has gathered for a moment is no
    # parameter, and not to be kept.
    if torch.compiler.is_compiling() or not isinstance(conv.weight, nn.Parameter):
        return _fold(conv, norm, layout, conv.weight.dtype)
    present = [tensor for tensor in tensors if tensor is not None]
    dtype = dtype_of_products(conv.weight)
    version = [layout, dtype, *((tensor.data_ptr(), tensor._version, tensor.dtype) for tensor in present)]
    kept = getattr(conv, '_kept_fold', None)
    if kept is None or kept[0] != version:
        with torch.inference_mode(False), torch.no_grad():  # What is kept may serve a training later.
            kept = conv._kept_fold = version, _fold(conv, norm, layout, dtype)
    return kept[1]


def _fold(conv: nn.Conv2d, norm: _BatchNorm, layout: torch.memory_format, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    weight = conv.weight * scale[:, None, None, None]
    return weight.to(dtype, memory_format=layout), shift.to(dtype)


class FoldedBottleneck(Bottleneck):
    """CLIP's residual block, by :func:`conv_norm`. Parameters and their names are open_clip's."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""
        out = self.act1(conv_norm(self.conv1, self.bn1, x))
        out = self.act2(conv_norm(self.conv2, self.bn2, out))
        out = conv_norm(self.conv3, self.bn3, self.avgpool(out))
        if self.downsample is not None:
            pool, conv, norm = self.downsample
            x = conv_norm(conv, norm, pool(x))
        out += x
        return self.act3(out)


def fold_norms(module: nn.Module) -> nn.Module:
    """Have every :class:`Bottleneck` of open_clip in a module compute as :class:`FoldedBottleneck` does.

    Args:
        module: The module, changed in place. Only the blocks' class is exchanged; parameters stay what they are.

    Returns:
        The module.
    """
    for part in module.modules():
        if type(part) is Bottleneck:
            part.__class__ = FoldedBottleneck
    return module
