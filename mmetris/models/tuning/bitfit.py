"""BitFit: the biases, and nothing else (Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning", 2022)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import cast

from torch import nn

from mmetris.registry import MODELS

from ..encoders.frozen_encoder import FrozenEncoder
from .base import TuningMethod


@MODELS.register_module()
class BitFit(TuningMethod):
    """Tune the biases of an encoder's tower: of linear layers, convolutions, attentions and normalisations.

    It adds no parameter. A BatchNorm whose bias is tuned still keeps its statistics.

    Args:
        names: Patterns of the parameters' names in the tower, in the shell's form. Defaults to ``'*bias'``: all biases,
            the packed ones of attentions (``in_proj_bias``) among them.

    Raises:
        ValueError: If a pattern matches no parameter of the tower, or all that it matches is tuned already.
    """

    told = ('names',)

    def __init__(self, names: str | Sequence[str] = '*bias', init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.names = (names,) if isinstance(names, str) else tuple(names)
        self._names: list[str] = []

    def bind(self, encoder: FrozenEncoder) -> None:
        known = encoder.pretrained.parameter_names
        for pattern in self.names:
            if not any(fnmatchcase(name, pattern) for name in known):
                raise ValueError(f'BitFit: {pattern!r} matches no parameter of {type(encoder.tower).__name__}')
        self._names = [name for name in known if any(fnmatchcase(name, pattern) for pattern in self.names)]
        if encoder.pretrained.tunable_names >= set(self._names):
            raise ValueError(
                f'BitFit: all parameters that match {", ".join(self.names)} are tuned already, by frozen=False, '
                'tunable_parameters or another method; leave one of them out'
            )
        encoder.pretrained.tune(self._names)
        self._weights = encoder.pretrained

    def tuned_parameters(self) -> Iterator[nn.Parameter]:
        tensors = cast('dict[str, nn.Parameter]', self._weights.tensors())  # Those asked for are parameters.
        yield from (tensors[name] for name in self._names if name in tensors)
