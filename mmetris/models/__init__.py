"""Encoders, Bridger, decode head, loss and segmentor of ETRIS."""

import mmseg.models  # noqa: F401  A registry's child does not trigger its parent's lazy import: MMSeg's names come first.

from .backbones import (
    CLIPResNet,
    CLIPTimmConvNet,
    CLIPTimmViT,
    CLIPViT,
    DenseCLIPResNet,
    DenseCLIPViT,
    DINOv2ViT,
)
from .data_preprocessor import RefSegDataPreProcessor
from .decode_heads import CosineHead, ETRISHead, NoTargetHead
from .encoders import FrozenEncoder, StagedImageEncoder, StagedTextEncoder, StageSpec
from .losses import ClassMaskContrastiveLoss, TextToPixelContrastiveLoss
from .necks import Bridger, TextFirst, TextFirstBridger
from .segmentors import ClassNameSegmentor, ReferringSegmentor, RefSegTTAModel, TrainingFreeSegmentor
from .text_encoders import ClassText, ClassVectors, CLIPTextEncoder
from .trunk import BridgedBackbone, BridgedModel
from .tuning import (
    Adapter,
    BitFit,
    Compacter,
    ConvAdapter,
    DenseAligner,
    DenseTextAdapter,
    LoRA,
    PromptTokens,
    TuningMethod,
    merge_tuning,
)

__all__ = [
    'Adapter',
    'BitFit',
    'BridgedBackbone',
    'BridgedModel',
    'Bridger',
    'CLIPResNet',
    'CLIPTextEncoder',
    'CLIPTimmConvNet',
    'CLIPTimmViT',
    'CLIPViT',
    'ClassMaskContrastiveLoss',
    'ClassNameSegmentor',
    'Compacter',
    'ConvAdapter',
    'ClassText',
    'ClassVectors',
    'CosineHead',
    'DINOv2ViT',
    'DenseAligner',
    'DenseCLIPResNet',
    'DenseCLIPViT',
    'DenseTextAdapter',
    'ETRISHead',
    'FrozenEncoder',
    'LoRA',
    'NoTargetHead',
    'PromptTokens',
    'RefSegDataPreProcessor',
    'RefSegTTAModel',
    'ReferringSegmentor',
    'StageSpec',
    'StagedImageEncoder',
    'StagedTextEncoder',
    'TextFirst',
    'TextFirstBridger',
    'TextToPixelContrastiveLoss',
    'TrainingFreeSegmentor',
    'TuningMethod',
    'merge_tuning',
]
