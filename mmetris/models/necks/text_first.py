"""Text first: the text encoder runs to its end, then the image encoder, which reads the finished words (DETRIS).

    text:   embed -- stage 1 -- ... -- stage N -- tail -> words, sentence
                                                            |
    image:  stem -- stage 1 ------------- stage 2 -- ... -- stage N -- tail -> maps
                   (reads no words:      (something tuned in it reads words)
                    once for each image)

Axes: I images, B sentences, L tokens, C an encoder's width, H W the image encoder's grid.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mmetris.registry import MODELS
from mmetris.structures import BridgedFeatures, map_tensors

from ..encoders import StagedImageEncoder, StagedTextEncoder, StageSpec
from .staged_neck import ImagePrefix, StagedNeck


@MODELS.register_module()
class TextFirst(StagedNeck):
    """The walk of DETRIS (AAAI 2025): words go one way, from a text encoder that has finished into the image encoder.

    It has no parameters of its own. What reads the words is a tuning method of the image encoder
    (:class:`~mmetris.models.DenseAligner`); where there is none, this is the model without Bridger. Stages before the
    first that reads words are computed once for each image, whatever is asked of it; those after it once for each
    sentence.

    Args:
        image_specs: Of the image stages in ``out_stages``; not needed. A :class:`ReferringSegmentor` gives it to every
            neck, as it does the next two. Defaults to None.
        word_channels: Not needed. Defaults to None.
        out_stages: Not needed. Defaults to None.
    """

    def __init__(
        self,
        image_specs: Sequence[StageSpec] | None = None,
        word_channels: int | None = None,
        out_stages: Sequence[int] | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)

    def prefix_stage(self, image_encoder: StagedImageEncoder) -> int:
        """The last stage before the first that reads words; the encoder's last where none does."""
        return min(image_encoder.reading_stages, default=image_encoder.out_stages[-1] + 1) - 1

    def reads_text(self, image_encoder: StagedImageEncoder) -> bool:
        return bool(image_encoder.reading_stages)

    def forward(
        self,
        image_encoder: StagedImageEncoder,
        text_encoder: StagedTextEncoder,
        images: Tensor | ImagePrefix,
        tokens: Tensor,
        image_index: Tensor | None = None,
    ) -> BridgedFeatures:
        self._check_rows(images, tokens, image_index)
        words, sentence = text_encoder.forward(tokens)
        prefix = self.image_prefix(image_encoder, images)
        state, maps = prefix.state, list(prefix.maps)
        reads = self.reads_text(image_encoder)
        if image_index is not None:
            maps = [feature_map[image_index] for feature_map in maps]
            if reads:
                state = map_tensors(lambda tensor: tensor[image_index], state)
        if reads:
            state = image_encoder.hand_words(state, words)
            for index in range(prefix.stage + 1, image_encoder.out_stages[-1] + 1):
                state = image_encoder.stage(index, state)
                if index in image_encoder.out_stages:
                    maps.append(self._map_of(image_encoder, state, index))
        return BridgedFeatures(tuple(maps), words, sentence, text_encoder.padding_mask(tokens))
