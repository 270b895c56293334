"""LoRA: low-rank updates of linear maps (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2022)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mmetris.registry import MODELS

from ..encoders.frozen_encoder import FrozenEncoder
from ..layers.attention import PROJECTIONS, Attention
from .base import TuningMethod
from .places import Handle, Place, Places, add_parallel, add_to_projection, key_of, normalised, places_of


class LowRankUpdate(nn.Module):
    """``alpha / rank * up(down(x))``, zero at first: A as Kaiming's uniform distribution, B zero (Sec. 4.1).

    Args:
        in_channels: Width of the input.
        out_channels: Width of the output.
        rank: Width r between.
        alpha: Scale; the update is multiplied by ``alpha / rank``.
        dropout: Probability, of the input.

    Shape:
        (..., in_channels) -> (..., out_channels)
    """

    def __init__(self, in_channels: int, out_channels: int, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Linear(in_channels, rank, bias=False)
        self.up = nn.Linear(rank, out_channels, bias=False)
        self.scale = alpha / rank
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_channels) -> (..., out_channels)."""
        return self.up(self.down(self.dropout(x))) * self.scale

    def matrix(self) -> Tensor:
        """What it adds to a weight, (out_channels, in_channels), in double precision."""
        return self.up.weight.double() @ self.down.weight.double() * self.scale


class _Bound(NamedTuple):
    """One update, where it is bound."""

    name: str
    module: nn.Module
    projection: str | None
    update: LowRankUpdate
    handle: Handle


@MODELS.register_module()
class LoRA(TuningMethod):
    """Low-rank updates of the attentions' projections, or of linear layers.

    Ours and not the PEFT library's, whose layers take the place of those they update, so that CLIP's keys would no
    longer be those of its files; and its LoRA knows no packed projections of an attention.

    Args:
        rank: Rank r of each update. Defaults to 4.
        alpha: Scale of the updates, ``alpha / rank``. Defaults to None: that of ``rank``, a scale of 1.
        places: Attentions, packed or (the pool of CLIP's ResNets) with linear projections, and linear layers, see
            :func:`~mmetris.models.tuning.places.places_of`. Defaults to ``'attention'``: all attentions.
        projections: Which projections of the attentions: ``'q'``, ``'k'``, ``'v'``. Defaults to ``('q', 'v')``, as in
            the paper.
        dropout: Probability, of what an update reads. Defaults to 0.

    Raises:
        ValueError: If ``rank`` is not positive or larger than a width, a projection is unknown, or a place is neither
            an attention nor a linear layer, or updated twice.
    """

    told = ('alpha',)

    def __init__(
        self,
        rank: int = 4,
        alpha: float | None = None,
        places: Places = 'attention',
        projections: Sequence[str] = ('q', 'v'),
        dropout: float = 0.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if rank < 1:
            raise ValueError(f'rank={rank} of LoRA must be positive')
        if unknown := [name for name in projections if name not in PROJECTIONS]:
            raise ValueError(f'projections={unknown} of LoRA must be among {PROJECTIONS}')
        self.rank, self.alpha = rank, float(rank if alpha is None else alpha)
        self.places, self.projections, self.dropout = normalised(places), tuple(projections), dropout
        self.updates = nn.ModuleDict()
        self._bound: dict[str, _Bound] = {}

    def bind(self, encoder: FrozenEncoder) -> None:
        others = [method for method in encoder.tuning.values() if isinstance(method, LoRA) and method is not self]
        for place in places_of(encoder, self.places, (nn.Linear, nn.MultiheadAttention, *_pools(encoder.tower))):
            for name, module, projection in self._updated(place):
                key = key_of(name)
                if any(key in method._bound for method in others):
                    raise ValueError(f'{name!r} has a LoRA already; let one of them have both ranks together')
                widest = min(_widths(module, projection))
                if self.rank > widest:
                    raise ValueError(f'rank={self.rank} of LoRA exceeds the width of {name!r}, which is {widest}')
                update = LowRankUpdate(*_widths(module, projection), self.rank, self.alpha, self.dropout)
                if projection is None:
                    handle = add_parallel(module, update)
                else:
                    handle = add_to_projection(module, projection, update)
                self.updates[key] = update
                self._bound[key] = _Bound(name, module, projection, update, handle)

    def _updated(self, place: Place) -> Iterator[tuple[str, nn.Module, str | None]]:
        """Name, module and, of a packed attention, projection of each weight at a place."""
        if isinstance(place.start, nn.Linear):
            yield place.name, place.start, None
            return
        for projection in self.projections:
            if isinstance(place.start, Attention):
                yield f'{place.name}.{projection}', place.start, projection
            else:
                yield f'{place.name}.{projection}_proj', getattr(place.start, f'{projection}_proj'), None

    def check_mergeable(self) -> None:
        for bound in self._bound.values():
            module = bound.module
            if parametrize.is_parametrized(module):
                raise ValueError(f'LoRA cannot be merged into {bound.name!r}, whose weight is parametrized')
            if bound.projection is None and list(module._forward_hooks)[0] != getattr(bound.handle, 'id', None):
                raise ValueError(
                    f'LoRA cannot be merged into {bound.name!r}: another method changes the output before it is added. '
                    'Name LoRA first in tuning='
                )

    @torch.no_grad()
    def merge(self) -> None:
        for bound in self._bound.values():
            weight = _weight(bound.module, bound.projection)
            weight.copy_((weight.double() + bound.update.matrix()).to(weight.dtype))
            bound.handle.remove()
        self._bound.clear()


def _pools(tower: nn.Module) -> tuple[type[nn.Module], ...]:
    """Classes of the attentions in a tower whose projections are linear layers."""
    return tuple(
        {
            type(module)
            for module in tower.modules()
            if all(isinstance(getattr(module, f'{name}_proj', None), nn.Linear) for name in PROJECTIONS)
        }
    )


def _widths(module: nn.Module, projection: str | None) -> tuple[int, int]:
    if isinstance(module, Attention):
        return dict(q=module.embed_dim, k=module.kdim, v=module.vdim)[projection or 'q'], module.embed_dim
    assert isinstance(module, nn.Linear)  # So places were chosen.
    return module.in_features, module.out_features


def _weight(module: nn.Module, projection: str | None) -> Tensor:
    """The weight (out, in) of a linear layer, or of one projection of an attention: the part of the packed one."""
    if isinstance(module, Attention):
        return module.projection_weights()[PROJECTIONS.index(projection or 'q')]
    assert isinstance(module, nn.Linear)
    return module.weight
