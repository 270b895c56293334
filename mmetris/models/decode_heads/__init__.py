"""Decode heads: from bridged features to mask logits."""

from .cosine_head import CosineHead
from .cris_fpn import CRISFPN
from .etris_head import ETRISHead
from .global_alignment import GlobalAlignment, GlobalAlignmentLayer
from .hierarchical_alignment import HierarchicalAlignment, SentenceGate
from .no_target import NoTargetHead, NoTargetRule
from .projector import DotProductProjector, Projector, dynamic_conv

__all__ = [
    'CRISFPN',
    'CosineHead',
    'DotProductProjector',
    'ETRISHead',
    'GlobalAlignment',
    'GlobalAlignmentLayer',
    'HierarchicalAlignment',
    'NoTargetHead',
    'NoTargetRule',
    'Projector',
    'SentenceGate',
    'dynamic_conv',
]
