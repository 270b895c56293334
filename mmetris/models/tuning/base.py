"""What all tuning methods have in common."""

from __future__ import annotations

from collections.abc import Iterator

from mmengine.model import BaseModule
from torch import nn

from ..encoders.frozen_encoder import FrozenEncoder


class TuningMethod(BaseModule):
    """Something that is trained beside, or of, a frozen encoder.

    An encoder builds its methods from its argument ``tuning``, holds them under their names there
    (``backbone.tuning.lora``) and binds each once, in their order. Methods compose: each is bound to places of the same
    tower, and none knows of another. What is added should start as no change, so that an untrained model gives the
    encoder's own features.
    """

    # Column of the tables of parameters ("Prompt" in the paper's Table 2) for methods that learn inputs.
    is_prompt = False

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
