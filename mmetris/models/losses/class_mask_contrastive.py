"""Text-to-pixel contrastive loss where the texts are class names (ETRIS, Sec. 3.4, eqs. (10) and (11))."""

from __future__ import annotations

import torch
from torch import Tensor

from mmetris.registry import MODELS

from .text_to_pixel_contrastive import TextToPixelContrastiveLoss


@MODELS.register_module()
class ClassMaskContrastiveLoss(TextToPixelContrastiveLoss):
    """Every class name against the mask of its class, as a sentence against the mask of what it means.

    Unlike cross-entropy it asks of each name on its own whether it fits a pixel, so that a name's logit keeps its
    meaning whatever other names stand beside it. It is called as MMSeg calls its losses.

    Args:
        loss_weight, ignore_index, loss_name: See :class:`TextToPixelContrastiveLoss`.
    """

    def __init__(self, loss_weight: float = 1.0, ignore_index: int = 255, loss_name: str = 'loss_class_mask') -> None:
        super().__init__(loss_weight, ignore_index, loss_name)

    def forward(
        self, logits: Tensor, labels: Tensor, weight: Tensor | None = None, ignore_index: int | None = None
    ) -> Tensor:
        """Compute the loss.

        Args:
            logits: (B, K, h, w), before the sigmoid.
            labels: (B, h, w) integer classes 0 to K - 1, or ``ignore_index``.
            weight: (B, h, w) factor for each pixel. Defaults to None: all count the same.
            ignore_index: Overrides that of the constructor, as MMSeg's heads do. Defaults to None: no.

        Returns:
            Scalar loss, float32: the mean over pixels and classes.
        """
        ignored = self.ignore_index if ignore_index is None else ignore_index
        classes = torch.arange(logits.shape[1], device=labels.device).view(-1, 1, 1)
        labels = labels.unsqueeze(1)
        masks = (labels == classes).float().masked_fill(labels == ignored, ignored)
        if weight is not None:
            weight = weight.unsqueeze(1).expand_as(logits).reshape(-1, 1, *logits.shape[-2:])
        return super().forward(logits.flatten(0, 1).unsqueeze(1), masks.flatten(0, 1), weight, ignored)
