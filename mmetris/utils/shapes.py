"""Sizes of tensors, in the form in which they are passed on."""

from __future__ import annotations

from torch import Tensor


def hw_of(tensor: Tensor) -> tuple[int, int]:
    """Height and width of images or maps (..., H, W)."""
    height, width = tensor.shape[-2:]
    return height, width
