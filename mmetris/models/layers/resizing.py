"""One grid for maps whose sides differ by rounding."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def resize_to(feature_map: Tensor, grid: tuple[int, int]) -> Tensor:
    """A map on another grid, bilinearly and with the corners of pixels aligned, not their centres.

    Args:
        feature_map: ``(B, C, H, W)``.
        grid: The wanted (H', W'); a map that has it already is handed back as it is.

    Returns:
        ``(B, C, H', W')``.
    """
    if tuple(feature_map.shape[-2:]) == tuple(grid):
        return feature_map
    return F.interpolate(feature_map, tuple(grid), mode='bilinear', align_corners=False)
