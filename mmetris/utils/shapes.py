"""Sizes of tensors and bounds of masks, in the form in which they are passed on."""

from __future__ import annotations

import cv2
import numpy as np
from torch import Tensor


def hw_of(tensor: Tensor) -> tuple[int, int]:
    """Height and width of images or maps (..., H, W)."""
    height, width = tensor.shape[-2:]
    return height, width


def bounds_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The smallest box around a mask: left, top, right and bottom, the last two exclusive; zeros if nothing is set.

    Args:
        mask: (H, W) bool or uint8.
    """
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    return left, top, left + width, top + height
