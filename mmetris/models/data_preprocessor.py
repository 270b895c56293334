"""From a batch of the data loader to the images that CLIP was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmseg.models import SegDataPreProcessor
from mmseg.utils import stack_batch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from mmetris.registry import MODELS

# CLIP's normalisation of R, G and B, on the scale 0..255.
MEAN = tuple(255 * value for value in OPENAI_DATASET_MEAN)
STD = tuple(255 * value for value in OPENAI_DATASET_STD)


@MODELS.register_module()
class RefSegDataPreProcessor(SegDataPreProcessor):
    """MMSeg's data preprocessor with CLIP's normalisation, and test batches of images that differ in size.

    BGR images of 0..255 become RGB, normalised, and are padded at the right and bottom to one size that is a multiple
    of ``size_divisor``. Padding has the value of CLIP's mean colour; in ground truth it is marked 255, to be ignored.
    Predictions are made without the padding.

    Args:
        mean: Mean of each channel, RGB, on the scale 0..255. Defaults to CLIP's; None leaves the images as they are.
        std: Standard deviation of each channel. Defaults to CLIP's.
        size_divisor: Height and width become multiples of this: the patch of a ViT, 32 for a ResNet. Defaults to 32.
        bgr_to_rgb: Defaults to True, as MMCV loads images in BGR.
        **kwargs: Other arguments of :class:`mmseg.models.SegDataPreProcessor`.

    Attributes:
        swaps_channels: Whether the order of the channels is reversed (``bgr_to_rgb`` or ``rgb_to_bgr``).
        normalises: Whether ``mean`` and ``std`` were given; both are buffers (3, 1, 1) then.
    """

    shared_arguments = ('mean', 'std')  # A model fills them in from its image encoder.

    def __init__(
        self,
        mean: Sequence[float] | None = MEAN,
        std: Sequence[float] | None = STD,
        size_divisor: int = 32,
        bgr_to_rgb: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(mean=mean, std=std, size_divisor=size_divisor, bgr_to_rgb=bgr_to_rgb, **kwargs)
        # MMSeg has both too, under names that differ between its releases.
        self.swaps_channels = bgr_to_rgb or bool(kwargs.get('rgb_to_bgr'))
        self.normalises = mean is not None

    def forward(self, data: dict, training: bool = False) -> dict:
        """Normalise and stack.

        Args:
            data: ``inputs``, a list of (3, H, W) images or one (B, 3, H, W) tensor, and optionally ``data_samples``.
            training: Whether ground truth is padded along with the images.

        Returns:
            ``inputs`` (B, 3, H', W') and ``data_samples``.
        """
        if training:
            return super().forward(data, training)
        data = self.cast_data(data)
        images, samples = data['inputs'], data.get('data_samples')
        if self.swaps_channels:
            images = [image[[2, 1, 0]] if image.shape[0] == 3 else image for image in images]
        images = [image.float() for image in images]
        if self.normalises:
            images = [(image - self.mean) / self.std for image in images]
        # MMSeg's own version asks for images of one size here; a batch of different photographs has none.
        images, paddings = stack_batch(images, size_divisor=self.size_divisor, pad_val=self.pad_val)
        for sample, padding in zip(samples or [], paddings):
            sample.set_metainfo(padding)
        return dict(inputs=images, data_samples=samples)
