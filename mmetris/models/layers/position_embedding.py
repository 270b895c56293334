"""Learned position embeddings on grids of other sizes, as CLIP and DINOv2 resize them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mmetris.utils.tensor_memo import TensorMemo


def resize_position_embedding(embedding: Tensor, grid_hw: tuple[int, int], num_prefix: int = 1) -> Tensor:
    """Resize the position embedding of a square grid to another grid, square or not, bicubically.

    Args:
        embedding: (num_prefix + S * S, C) learned embedding; rows before the grid (the class position) are kept.
        grid_hw: Height and width of the wanted grid.
        num_prefix: Number of rows before the grid.

    Returns:
        (num_prefix + H * W, C)

    Raises:
        ValueError: If the rows after the prefix form no square.
    """
    side = _side(embedding, num_prefix)
    if (side, side) == tuple(grid_hw):
        return embedding
    prefix, grid = embedding[:num_prefix], embedding[num_prefix:]
    grid = F.interpolate(_as_map(grid, side), size=grid_hw, mode='bicubic', align_corners=False)
    return torch.cat([prefix, grid.flatten(2).squeeze(0).t().to(prefix.dtype)])


def resize_dinov2_positions(
    embedding: Tensor,
    grid_hw: tuple[int, int],
    num_prefix: int = 1,
    offset: float = 0.1,
    antialias: bool = False,
) -> Tensor:
    """Resize the position embedding of a square grid as DINOv2 does: by a scale that is a little larger than the ratio
    of the grids, so that cells are sampled at slightly other places than :func:`resize_position_embedding` does.

    Args:
        embedding: (1, num_prefix + S * S, C) learned embedding; rows before the grid are kept.
        grid_hw: Height and width of the wanted grid.
        num_prefix: Number of rows before the grid.
        offset: Cells added to each side of the wanted grid in the scale; 0 is the plain ratio. Defaults to 0.1.
        antialias: Whether a grid that is made smaller is smoothed before. Defaults to False.

    Returns:
        (1, num_prefix + H * W, C)

    Raises:
        ValueError: If the rows after the prefix form no square.
    """
    side = _side(embedding[0], num_prefix)
    if (side, side) == tuple(grid_hw):
        return embedding
    prefix, grid = embedding[:, :num_prefix], embedding[:, num_prefix:]
    if offset:
        scales = tuple((float(length) + offset) / side for length in grid_hw)
        resized = F.interpolate(_as_map(grid, side), scale_factor=scales, mode='bicubic', antialias=antialias)
    else:
        resized = F.interpolate(_as_map(grid, side), size=grid_hw, mode='bicubic', antialias=antialias)
    return torch.cat([prefix, resized.flatten(2).transpose(1, 2).to(prefix.dtype)], dim=1)


def _side(embedding: Tensor, num_prefix: int) -> int:
    """Side of the square grid whose positions follow those of the prefix."""
    # While torch.jit traces, which MMEngine's count of operations does, sizes are tensors.
    num_positions = int(embedding.shape[0]) - num_prefix
    side = math.isqrt(num_positions)
    if side * side != num_positions:
        raise ValueError(f'a position embedding with {num_positions} grid positions is not square')
    return side


def _as_map(grid: Tensor, side: int) -> Tensor:
    """Positions (..., S * S, C) -> (1, C, S, S)."""
    return grid.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)


class ResizedPositions:
    """Position embeddings on grids, each resized once and again only after the embedding has changed.

    Args:
        resize: Called with the embedding, the grid and the number of rows before it. Defaults to
            :func:`resize_position_embedding`, CLIP's way.
    """

    def __init__(self, resize: Callable[[Tensor, tuple[int, int], int], Tensor] = resize_position_embedding) -> None:
        self.resize = resize
        self._memo = TensorMemo()

    def get(self, embedding: Tensor, grid_hw: tuple[int, int], num_prefix: int = 1) -> Tensor:
        """What ``resize`` makes of it; a tunable embedding is resized each time."""
        return self._memo.get((grid_hw, num_prefix), [embedding], lambda: self.resize(embedding, grid_hw, num_prefix))
