"""QuickGELU, the activation of OpenAI's CLIP, by SiLU."""

from __future__ import annotations

import torch
from open_clip.transformer import QuickGELU
from torch import Tensor, nn
from torch.nn import functional as F

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
    for part in list(module.modules()):
        for name, child in part.named_children():
            if type(child) is QuickGELU:
                setattr(part, name, FusedQuickGELU())
    return module
