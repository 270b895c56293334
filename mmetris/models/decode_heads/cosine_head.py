"""How alike a pixel and a text are in CLIP's shared space: a head without weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.nn import functional as F

from mmetris.registry import MODELS
from mmetris.structures import BridgedFeatures
from mmetris.utils.probabilities import check_probability

from .mask_prediction import undo_transforms


@MODELS.register_module()
class CosineHead(BaseModule):
    """Logits are the cosine of a position's feature and a text's, times a factor.

    Several names compete by these logits. A single sentence has no rival, and a cosine of CLIP's has no zero that means
    "no": its answer is a heat map, the cosine stretched to 0..1 over the picture, so that something is always found.

    Args:
        in_channels: Widths of the maps, of which the last one is read. The segmentor fills in this and the next three
            from its encoders.
        in_strides: Not needed. Defaults to None.
        word_channels: Not needed. Defaults to None.
        sentence_channels: Width of the texts' features. Defaults to None: that of the last map.
        logit_scale: The factor. Defaults to 40, as published with SCLIP. It plays no part in heat maps, nor in which
            class wins, except where windows overlap or logits are averaged.
        threshold: Heat above which a pixel belongs to a sentence's mask. Defaults to 0.5, half way up.
        align_corners: Corner rule of MMSeg's resizing. Defaults to False.
        init_cfg: See MMEngine; there are no weights. Defaults to None.

    Raises:
        ValueError: If maps and texts differ in width, ``logit_scale`` is not positive or ``threshold`` is not between 0
            and 1.
    """

    num_classes = 2
    out_channels = 1
    no_target_head = None

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int] | None = None,
        word_channels: int | None = None,
        sentence_channels: int | None = None,
        logit_scale: float = 40.0,
        threshold: float = 0.5,
        align_corners: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if sentence_channels is not None and sentence_channels != in_channels[-1]:
            raise ValueError(
                f'the map has {in_channels[-1]} channels and the text {sentence_channels}: a cosine needs both '
                'encoders of one CLIP'
            )
        if not logit_scale > 0:
            raise ValueError(f'logit_scale={logit_scale} must be positive')
        self.logit_scale, self.align_corners = logit_scale, align_corners
        self.threshold = check_probability(threshold, 'threshold')

    def forward(self, features: BridgedFeatures) -> Tensor:
        """Logits (B, 1, h, w) of B sentences, or (B, K, h, w) of K names.

        Args:
            features: The last of the maps (B, C, h, w), and ``sentence`` (B, C) or (B, K, C).
        """
        pixels = F.normalize(features.maps[-1], dim=1)
        texts = F.normalize(features.sentence, dim=-1)
        if texts.dim() == 2:
            texts = texts.unsqueeze(1)
        return self.logit_scale * torch.einsum('bchw,bkc->bkhw', pixels, texts)

    def heat_maps(self, logits: Tensor, data_samples: Sequence[SegDataSample] | None = None) -> list[SegDataSample]:
        """Heat maps of sentences at the size of the original images, and masks by ``threshold``.

        Args:
            logits: (B, 1, H, W) at the size of the network's input.
            data_samples: One for each row, with the meta information of its resizing; completed in place. Defaults to
                None: new ones of the size of the input.

        Returns:
            The samples, with ``seg_logits`` (1, H', W'), the logit of the heat, so that its sigmoid is the heat, and
            ``pred_sem_seg`` (1, H', W'), 1 where it is above ``threshold``. Where all pixels are alike the heat is 0.
        """
        samples = [SegDataSample() for _ in logits] if data_samples is None else list(data_samples)
        for row, sample in zip(logits.float(), samples, strict=True):
            heat = stretched(undo_transforms(row.unsqueeze(0), sample.metainfo, self.align_corners).squeeze(0))
            sample.seg_logits = PixelData(data=torch.logit(heat, eps=1e-6))
            sample.pred_sem_seg = PixelData(data=(heat > self.threshold).to(torch.uint8))
        return samples


def stretched(values: Tensor) -> Tensor:
    """Values stretched so that the least is 0 and the greatest 1; 0 where all are equal.

    Args:
        values: Any shape, at least one value.
    """
    least, greatest = values.min(), values.max()
    return (values - least) / (greatest - least).clamp(min=torch.finfo(values.dtype).tiny)
