"""Encoders, Bridger, decode head, loss and segmentor of ETRIS."""

import mmseg.models  # noqa: F401  A registry's child does not trigger its parent's lazy import: MMSeg's names come first.

from .backbones import BridgedBackbone, CLIPResNet, CLIPViT, StagedImageEncoder, StageSpec
from .data_preprocessor import RefSegDataPreProcessor
from .decode_heads import ETRISHead
from .losses import ClassMaskContrastiveLoss, TextToPixelContrastiveLoss
from .necks import Bridger
from .segmentors import ClassNameSegmentor, ReferringSegmentor
from .text_encoders import ClassText, CLIPTextEncoder

__all__ = [
    'BridgedBackbone',
    'Bridger',
    'CLIPResNet',
    'CLIPTextEncoder',
    'CLIPViT',
    'ClassMaskContrastiveLoss',
    'ClassNameSegmentor',
    'ClassText',
    'ETRISHead',
    'RefSegDataPreProcessor',
    'ReferringSegmentor',
    'StageSpec',
    'StagedImageEncoder',
    'TextToPixelContrastiveLoss',
]
