"""LoRA: low-rank updates of linear maps (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from mmetris.registry import MODELS

from ..encoders.frozen_encoder import FrozenEncoder
from ..layers.attention import PROJECTIONS, Attention
from .base import TuningMethod
from .places import add_parallel, add_to_projection, find_places, key_of


class LowRankUpdate(nn.Module):
    """``alpha / rank * up(down(x))``, zero at first: A as Kaiming's uniform distribution, B zero (Sec. 4.1).

    Args:
        in_channels: Width of the input.
        out_channels: Width of the output.
        rank: Width r between.
        alpha: Scale; the update is multiplied by ``alpha / rank``.

    Shape:
        (..., in_channels) -> (..., out_channels)
    """

    def __init__(self, in_channels: int, out_channels: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.down = nn.Linear(in_channels, rank, bias=False)
        self.up = nn.Linear(rank, out_channels, bias=False)
        self.scale = alpha / rank
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_channels) -> (..., out_channels)."""
        return self.up(self.down(x)) * self.scale


@MODELS.register_module()
class LoRA(TuningMethod):
    """Low-rank updates of the attentions' projections, or of linear layers.

    Args:
        rank: Rank r of each update. Defaults to 4.
        alpha: Scale of the updates, ``alpha / rank``. Defaults to None: that of ``rank``, a scale of 1.
        projections: Which projections of the attentions: ``'q'``, ``'k'``, ``'v'``. Defaults to ``('q', 'v')``, as in
            the paper.
        attentions: Patterns of the attentions' names in the tower, see
            :func:`~mmetris.models.tuning.places.find_places`. Defaults to ``'*'``: all.
        linears: Patterns of linear layers' names. Defaults to none. CLIP's ResNets have their only attention in the
            pool, whose projections are linear layers: ``attentions=(), linears=('attnpool.q_proj',
            'attnpool.v_proj')``.

    Raises:
        ValueError: If ``rank`` is not positive, nothing is to be updated, or the tower has no such modules.
    """

    def __init__(
        self,
        rank: int = 4,
        alpha: float | None = None,
        projections: Sequence[str] = ('q', 'v'),
        attentions: str | Sequence[str] = '*',
        linears: str | Sequence[str] = (),
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if rank < 1:
            raise ValueError(f'rank={rank} of LoRA must be positive')
        if unknown := [name for name in projections if name not in PROJECTIONS]:
            raise ValueError(f'projections={unknown} of LoRA must be among {PROJECTIONS}')
        self.rank, self.alpha = rank, float(rank if alpha is None else alpha)
        self.projections, self.attentions, self.linears = tuple(projections), attentions, linears
        self.updates = nn.ModuleDict()

    def bind(self, encoder: FrozenEncoder) -> None:
        if self.attentions:
            for place, attention in find_places(encoder.tower, self.attentions, Attention).items():
                widths = dict(q=attention.embed_dim, k=attention.kdim, v=attention.vdim)
                for name in self.projections:
                    update = self._add(f'{place}.{name}', widths[name], attention.embed_dim)
                    add_to_projection(attention, name, update)
        if self.linears:
            for place, linear in find_places(encoder.tower, self.linears, nn.Linear).items():
                add_parallel(linear, self._add(place, linear.in_features, linear.out_features))
        if not self.updates:
            raise ValueError('LoRA has nothing to update: name attentions or linears')

    def _add(self, place: str, in_channels: int, out_channels: int) -> LowRankUpdate:
        update = LowRankUpdate(in_channels, out_channels, self.rank, self.alpha)
        self.updates[key_of(place)] = update
        return update
