"""Decode heads: from bridged features to mask logits."""

from .etris_head import ETRISHead
from .global_alignment import GlobalAlignment, GlobalAlignmentLayer
from .hierarchical_alignment import HierarchicalAlignment, SentenceGate
from .projector import DotProductProjector, Projector, dynamic_conv

__all__ = [
    'DotProductProjector',
    'ETRISHead',
    'GlobalAlignment',
    'GlobalAlignmentLayer',
    'HierarchicalAlignment',
    'Projector',
    'SentenceGate',
    'dynamic_conv',
]
