"""What necks have in common: the walk of an image encoder as far as it needs no sentence."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

from mmengine.model import BaseModule
from torch import Tensor

from mmetris.structures import BridgedFeatures

from ..encoders import StagedImageEncoder, StagedTextEncoder


class ImagePrefix(NamedTuple):
    """What an image encoder has computed when it reaches the first stage that depends on the sentence.

    Args:
        state: State of the image encoder after ``stage``, for I images.
        stage: The last stage that has run.
        maps: (I, C, H, W) feature maps of the ``out_stages`` up to there.
        num_images: I.
    """

    state: Any
    stage: int
    maps: tuple[Tensor, ...]
    num_images: int


class StagedNeck(BaseModule):
    """Base of what leads an image and a text encoder, both in stages, to the features that a head reads.

    Attributes:
        stages: The image encoder's stages (1-based) after which the neck itself changes the image's features.
    """

    stages: tuple[int, ...] = ()

    @abstractmethod
    def prefix_stage(self, image_encoder: StagedImageEncoder) -> int:
        """The last stage that :meth:`image_prefix` runs."""

    @abstractmethod
    def reads_text(self, image_encoder: StagedImageEncoder) -> bool:
        """Whether the image's features depend on the sentence."""

    @abstractmethod
    def forward(
        self,
        image_encoder: StagedImageEncoder,
        text_encoder: StagedTextEncoder,
        images: Tensor | ImagePrefix,
        tokens: Tensor,
        image_index: Tensor | None = None,
    ) -> BridgedFeatures:
        """Run both encoders.

        Args:
            image_encoder: Image encoder in stages.
            text_encoder: Text encoder in stages, with as many ``out_stages``.
            images: (B, 3, H, W) normalised images, or (I, 3, H, W) distinct ones with ``image_index``; or what
                :meth:`image_prefix` made of them, as far as :meth:`prefix_stage` or less far.
            tokens: (B, L) token ids of one sentence each.
            image_index: (B,) row of ``images`` that each sentence speaks of. What does not depend on the sentence is
                then computed once for each image. Defaults to None: sentence b speaks of image b.

        Returns:
            Features for the decoder, one row for each sentence.

        Raises:
            ValueError: If the numbers of images and sentences do not match, or the image size does not suit the
                encoder.
        """

    def image_prefix(
        self,
        image_encoder: StagedImageEncoder,
        images: Tensor | ImagePrefix,
        stage: int | None = None,
        tail: bool = True,
    ) -> ImagePrefix:
        """Run the image encoder up to where the sentence comes in, or to its end where it never does.

        Whoever asks many sentences about an image does this once and hands the result to :meth:`forward`.

        Args:
            image_encoder: Image encoder in stages.
            images: (I, 3, H, W) normalised images, or a shorter prefix to go on from.
            stage: Stop after this one, 0 being the stem. Defaults to None: as far as :meth:`prefix_stage`.
            tail: Whether the tail, where it is reached, is run too. Defaults to True.

        Raises:
            ValueError: If the image size does not suit the encoder.
        """
        stage = self.prefix_stage(image_encoder) if stage is None else stage
        if isinstance(images, ImagePrefix):
            state, done, maps, num_images = images.state, images.stage, list(images.maps), images.num_images
        else:
            state, done, maps, num_images = image_encoder.stem(images), 0, [], images.shape[0]
        unbridged = [index for index in image_encoder.out_stages if index not in self.stages]
        for index in range(done, stage + 1):
            if index > done:
                state = image_encoder.stage(index, state)
            # The map of the stage that a shorter prefix ended with may be missing: it had no tail.
            is_wanted = index in unbridged[len(maps) :]
            if is_wanted and (tail or index != image_encoder.out_stages[-1]):
                maps.append(self._map_of(image_encoder, state, index))
        return ImagePrefix(state, stage, tuple(maps), num_images)

    @staticmethod
    def _map_of(image_encoder: StagedImageEncoder, state: Any, stage: int) -> Tensor:
        """What the decoder gets of a stage: the tail's map after the last one."""
        return image_encoder.tail(state) if stage == image_encoder.out_stages[-1] else image_encoder.feature_map(state)

    @staticmethod
    def _check_rows(images: Tensor | ImagePrefix, tokens: Tensor, image_index: Tensor | None) -> None:
        """Raise ValueError unless there is one image, or row of ``image_index``, for each sentence."""
        # len() of a tensor would fix the size of the batch in an exported graph.
        num_images = images.num_images if isinstance(images, ImagePrefix) else images.shape[0]
        num_rows = num_images if image_index is None else image_index.shape[0]
        if num_rows != tokens.shape[0]:
            raise ValueError(
                f'{tokens.shape[0]} sentences for {num_rows} images; give image_index to share images between sentences'
            )
