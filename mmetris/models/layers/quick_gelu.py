"""QuickGELU, the activation of OpenAI's CLIP, by SiLU."""

from __future__ import annotations

import torch
from open_clip.transformer import QuickGELU
from torch import Tensor, nn
from torch.nn import functional as F

from .shortcut import exchange_modules

SLOPE = 1.702


class FusedQuickGELU(QuickGELU):
    """``x * sigmoid(1.702 x)``, computed as ``silu(1.702 x) / 1.702``.

    ``x`` is the widest tensor of a transformer. The literal form makes three more of its size, and keeps ``x`` and one
    of them for the backward pass. This one makes two and keeps one; without gradients it makes one.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Same shape in and out."""
        scaled = SLOPE * x
        reuse = not (torch.is_grad_enabled() and scaled.requires_grad)
        return F.silu(scaled, inplace=reuse).mul_(1 / SLOPE)


def fuse_quick_gelu(module: nn.Module) -> nn.Module:
    """Put a :class:`FusedQuickGELU` in the place of every QuickGELU of open_clip.

    Args:
        module: The module, changed in place. Neither has parameters, so the state dict stays what it is.

    Returns:
        The module.
    """
    return exchange_modules(module, QuickGELU, lambda _: FusedQuickGELU())


def set_activation(module: nn.Module, quick_gelu: bool) -> nn.Module:
    """Have the transformers in a module compute with the one activation or the other.

    Args:
        module: The module, changed in place; the state dict stays what it is.
        quick_gelu: QuickGELU, else the exact GELU.

    Returns:
        The module.
    """
    if quick_gelu:
        return exchange_modules(module, nn.GELU, lambda _: FusedQuickGELU())
    return exchange_modules(module, FusedQuickGELU, lambda _: nn.GELU())
