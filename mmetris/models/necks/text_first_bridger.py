"""Both ways at once: aligners in the image encoder read the finished words, and Bridgers join the two encoders.

    text:   embed -- stage 1 -- ... -- stage N -- tail -> words
                                                            |
    image:  stem -- stage 1 --- stage 2 ----+---- stage 3 --+-+---- stage 4 -----+---- tail -> maps
                                  |         |        |        |         |        |
                               [Bridger stage 2]  [Bridger stage 3]  [Bridger stage 4]
                                  |         |        |        |         |        |
    text:  embed -- stage 1 -- stage 2 -----+---- stage 3 ----+---- stage 4 -----+---- tail -> words, sentence

The text encoder runs twice: first by itself, for what is tuned in the image encoder (DETRIS), then past the Bridgers
(ETRIS), whose words and sentence are what the head reads. A sentence is short: of the encoders' work this is little.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmetris.registry import MODELS

from ..encoders import StagedImageEncoder, StagedTextEncoder
from .bridger import Bridger


@MODELS.register_module()
class TextFirstBridger(Bridger):
    """A :class:`Bridger` past an image encoder in which something reads words (:class:`~mmetris.models.DenseAligner`).

    Without such a method it is the Bridger, and without Bridgers (``stages=()``) it is :class:`TextFirst`, though for
    the text encoder's second run. Stages before the first that depends on the sentence, by the one or the other, are
    computed once for each image. Its arguments are the Bridger's.
    """

    def prefix_stage(self, image_encoder: StagedImageEncoder) -> int:
        """The stage of the first Bridger, or the last one before the first that reads words."""
        bridged = super().prefix_stage(image_encoder)
        return min([bridged, *(stage - 1 for stage in image_encoder.reading_stages)])

    def reads_text(self, image_encoder: StagedImageEncoder) -> bool:
        return bool(self.stages or image_encoder.reading_stages)

    def before_bridges(
        self, image_encoder: StagedImageEncoder, text_encoder: StagedTextEncoder, state: Any, tokens: Tensor
    ) -> Any:
        """The state with the words of a text encoder that has run to its end, where something reads them."""
        if not image_encoder.reading_stages:
            return state
        return image_encoder.hand_words(state, text_encoder.forward(tokens)[0])
