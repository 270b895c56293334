"""CLIP's learned position embeddings on grids of other sizes."""

from __future__ import annotations

import math

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
    # While torch.jit traces, which MMEngine's count of operations does, sizes are tensors.
    num_positions = int(embedding.shape[0]) - num_prefix
    side = math.isqrt(num_positions)
    if side * side != num_positions:
        raise ValueError(f'a position embedding with {num_positions} grid positions is not square')
    if (side, side) == tuple(grid_hw):
        return embedding
    prefix, grid = embedding[:num_prefix], embedding[num_prefix:]
    grid = grid.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=grid_hw, mode='bicubic', align_corners=False)
    return torch.cat([prefix, grid.flatten(2).squeeze(0).t().to(prefix.dtype)])


class ResizedPositions:
    """Position embeddings on grids, each resized once and again only after the embedding has changed."""

    def __init__(self) -> None:
        self._memo = TensorMemo()

    def get(self, embedding: Tensor, grid_hw: tuple[int, int], num_prefix: int = 1) -> Tensor:
        """Like :func:`resize_position_embedding`; a tunable embedding is resized each time."""
        return self._memo.get(
            (grid_hw, num_prefix), [embedding], lambda: resize_position_embedding(embedding, grid_hw, num_prefix)
        )
