"""The model: mmetris's trunk, and a head that makes boxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmetris.models import BridgedModel
from mmetris.registry import MODELS


@MODELS.register_module()
class ReferringGrounder(BridgedModel):
    """An image, a sentence, boxes.

    Args:
        backbone: Config of the image encoder.
        text_encoder: Config of the text encoder.
        neck: Config of the Bridger.
        box_head: Config of the :class:`PooledBoxHead` or :class:`TransformerBoxHead`.
        **kwargs: The other arguments of :class:`~mmetris.models.BridgedModel`.
    """

    head_name = 'box_head'

    def __init__(
        self, backbone: Mapping, text_encoder: Mapping, neck: Mapping, box_head: Mapping, **kwargs: Any
    ) -> None:
        super().__init__(backbone, text_encoder, neck, **kwargs)
        self.box_head = self.build_head(box_head)
