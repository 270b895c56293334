"""Losses of mmetris; MMSeg's own can be used beside them."""

from .text_to_pixel_contrastive import TextToPixelContrastiveLoss

__all__ = ['TextToPixelContrastiveLoss']
