"""Losses of mmetris; MMSeg's own can be used beside them."""

from .class_mask_contrastive import ClassMaskContrastiveLoss
from .text_to_pixel_contrastive import TextToPixelContrastiveLoss

__all__ = ['ClassMaskContrastiveLoss', 'TextToPixelContrastiveLoss']
