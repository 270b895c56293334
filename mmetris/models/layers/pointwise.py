"""A linear layer over channels, of tokens or of a map."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer over channels, wherever they are.

    Args:
        x: Tokens (..., C), or, of four axes, a map (B, C, H, W).
        weight: (C', C).
        bias: (C',). Defaults to None.

    Returns:
        Of the same form, with C' channels.
    """
    if x.dim() == 4:
        return F.conv2d(x, weight[:, :, None, None], bias)
    return F.linear(x, weight, bias)


class PointwiseLinear(nn.Linear):
    """``nn.Linear`` over the channels of tokens (B, L, C) or of a map (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """See :func:`pointwise`."""
        return pointwise(x, self.weight, self.bias)
