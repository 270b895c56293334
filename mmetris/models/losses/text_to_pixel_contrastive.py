"""Text-to-pixel contrastive loss (ETRIS, Sec. 3.4, eqs. (10) and (11))."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmetris.registry import MODELS


def resize_target(target: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Resize masks to the grid of the logits, each cell taking the value of its nearest pixel.

    Args:
        target: Masks ``(B, 1, H, W)`` of any type; labels such as 255 survive unchanged.
        size: Grid (h, w).

    Returns:
        ``(B, 1, h, w)``, float32.
    """
    target = target.float()
    return target if target.shape[-2:] == tuple(size) else F.interpolate(target, tuple(size), mode='nearest')


@MODELS.register_module()
class TextToPixelContrastiveLoss(nn.Module):
    """Pull the text towards the pixels of its mask and push it away from all others (ETRIS, eqs. (10), (11)).

    The similarity of text and pixel is the pixel's logit, so this is binary cross-entropy between logits and mask,
    averaged over every pixel of the batch that is not ignored. Where every pixel is ignored, it is zero with a zero
    gradient.

    Args:
        loss_weight: Factor on the loss. Defaults to 1.0, its value in the paper.
        ignore_index: Mask value of pixels that count neither as target nor as background. Defaults to 255, as in MMSeg.
        loss_name: Key in the log; only names that start with ``loss_`` are added to what is minimised.
    """

    def __init__(
        self, loss_weight: float = 1.0, ignore_index: int = 255, loss_name: str = 'loss_text_to_pixel'
    ) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.ignore_index = ignore_index
        self._loss_name = loss_name

    @property
    def loss_name(self) -> str:
        """Key of this loss in the log."""
        return self._loss_name

    def forward(
        self, logits: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int | None = None
    ) -> Tensor:
        """Compute the loss.

        Args:
            logits: ``(B, 1, h, w)``, before the sigmoid.
            target: Masks ``(B, 1, H, W)`` or ``(B, H, W)`` of any size, 1 on the target, 0 elsewhere, ``ignore_index``
                where unknown.
            weight: Factor for each cell of the logits, ``(B, 1, h, w)``. Defaults to None: all count the same.
            ignore_index: Overrides that of the constructor, as MMSeg's heads do. Defaults to None: no.

        Returns:
            Scalar loss, float32.

        Raises:
            ValueError: If ``logits`` has not one channel, or the batches differ in size.
        """
        target = target[:, None] if target.dim() == 3 else target
        if logits.dim() != 4 or logits.shape[1] != 1 or target.shape[:2] != logits.shape[:2]:
            raise ValueError(
                'logits must be (B, 1, h, w) and target (B, 1, H, W) or (B, H, W), '
                f'but they are {tuple(logits.shape)} and {tuple(target.shape)}'
            )
        target = resize_target(target, logits.shape[-2:])
        valid = target != (self.ignore_index if ignore_index is None else ignore_index)
        # The target of an ignored pixel may be any number; zero keeps the product below finite.
        loss = F.binary_cross_entropy_with_logits(logits.float(), target * valid, weight, reduction='none')
        return self.loss_weight * (loss * valid).sum() / valid.sum().clamp(min=1)
