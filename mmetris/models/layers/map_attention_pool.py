"""CLIP's attention pool, which can be asked at every position, so that a map stays a map (ETRIS, Sec. 3.1)."""

from __future__ import annotations

import torch
from open_clip.modified_resnet import AttentionPool2d
from torch import Tensor
from torch.nn import functional as F

from mmetris.utils.shapes import hw_of

from .position_embedding import ResizedPositions
from .shortcut import take_over


class MapAttentionPool(AttentionPool2d):
    """CLIP's attention pool, with every position as a query where a map is wanted.

    Parameters and their names are open_clip's, and so is the result where no map is wanted and the image is as large as
    CLIP's own.

    Args:
        *args: Sizes, as open_clip's pool has them.
        mean_key: Whether the mean of the map, which is CLIP's pooling query, stays a key, and its position with it.
            Defaults to True.

    """

    def __init__(self, *args: int, mean_key: bool = True) -> None:
        super().__init__(*args)
        self.mean_key = mean_key
        self._positions = ResizedPositions()

    @classmethod
    def of(cls, pool: AttentionPool2d, mean_key: bool = True) -> MapAttentionPool:
        """A pool with the parameters of CLIP's, shared."""
        side = round((len(pool.positional_embedding) - 1) ** 0.5)
        with torch.device('meta'):
            own = cls(side, pool.k_proj.in_features, pool.num_heads, pool.c_proj.out_features, mean_key=mean_key)
        return take_over(own, pool)

    def forward(self, x: Tensor, keep_map: bool = False) -> Tensor:
        """Pool.

        Args:
            x: (B, C, H, W), of any grid: positions are resized to it.
            keep_map: Whether every position is a query. Defaults to False: the mean alone is, as in CLIP.

        Returns:
            (B, C'), or (B, C', H, W) with ``keep_map``.
        """
        grid_hw = hw_of(x)
        positions = self._positions.get(self.positional_embedding, grid_hw).to(x.dtype)
        pixels = x.flatten(2).transpose(1, 2) + positions[1:]
        mean = x.mean(dim=(2, 3)).unsqueeze(1) + positions[:1]
        queries = pixels if keep_map else mean
        keys = torch.cat([mean, pixels], dim=1) if self.mean_key or not keep_map else pixels
        query, key, value = (
            projection(tokens).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for projection, tokens in ((self.q_proj, queries), (self.k_proj, keys), (self.v_proj, keys))
        )
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        pooled = self.c_proj(attended)
        return pooled.transpose(1, 2).unflatten(2, grid_hw) if keep_map else pooled.squeeze(1)

    def values(self, x: Tensor) -> Tensor:
        """Values alone, where no position attends to another: v_proj and c_proj as 1x1 convolutions, without the
        positions (Zhou et al., "Extract Free Dense Labels from CLIP", 2022).

        Args:
            x: (B, C, H, W).

        Returns:
            (B, C', H, W).
        """
        values = self.c_proj(self.v_proj(x.flatten(2).transpose(1, 2)))
        return values.transpose(1, 2).unflatten(2, hw_of(x))

    def extra_repr(self) -> str:
        return f'mean_key={self.mean_key}'
