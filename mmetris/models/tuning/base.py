"""What all tuning methods have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.model import BaseModule
from torch import nn

from ..encoders.frozen_encoder import FrozenEncoder


class TuningMethod(BaseModule):
    """Something that is trained beside, or of, a frozen encoder.

    An encoder builds its methods from its argument ``tuning``, holds them under their names there
    (``backbone.tuning.lora``) and binds each once, in their order. Methods compose: each is bound to places of the same
    tower, and none knows of another. What is added should start as no change, so that an untrained model gives the
    encoder's own features.

    Attributes:
        is_prompt: Whether the method learns inputs: they have a column of their own in tables of parameters ("Prompt"
            in the paper's Table 2).
        told: Arguments that neither names nor shapes of weights tell, and results depend on; checkpoints have them,
            so that weights are never put onto another method.
    """

    is_prompt = False
    told: tuple[str, ...] = ()

    def bind(self, encoder: FrozenEncoder) -> None:
        """Make the method's parts for an encoder and bind them to places in its tower.

        Args:
            encoder: The encoder; ``encoder.tower``, ``encoder.pretrained`` and ``encoder.prompts`` are there.

        Raises:
            ValueError: If the tower has no such places.
        """
        raise NotImplementedError(f'{type(self).__name__} does not say where it is bound')

    def tuned_parameters(self) -> Iterator[nn.Parameter]:
        """What the method trains: its own parameters, and, if it says so, some of the tower's."""
        yield from self.parameters()

    def share_with(self, other: Any) -> None:
        """Share what is one for the whole model with the method of the same name on the image encoder's side.

        Args:
            other: That method, of any class. By default nothing is shared.
        """

    def check_mergeable(self) -> None:
        """Check that :meth:`merge` can be done, exactly, with whatever else is bound to the tower.

        Raises:
            ValueError: If it cannot, with the reason.
        """
        raise ValueError(f'{type(self).__name__} is no linear change of weights, so it cannot be merged into them')

    def merge(self) -> None:
        """Put what was learnt into the tower's weights, and take the method off; see
        :func:`~mmetris.models.tuning.merging.merge_tuning`."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return ', '.join(f'{name}={getattr(self, name)!r}' for name in self.told)

    def describe(self) -> str:
        """The method and what its weights do not tell, e.g. ``'LoRA(alpha=4.0)'``."""
        return f'{type(self).__name__}({self.extra_repr()})'
