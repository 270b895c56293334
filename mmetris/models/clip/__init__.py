"""CLIP as open_clip publishes it: architectures by name or by sizes, and its weights in all their file forms."""

from .dual_encoder import ArchLike, DualEncoder, build_image_tower, build_text_tower, resolve_arch
from .weights import ClipWeights, load_clip_weights

__all__ = [
    'ArchLike',
    'ClipWeights',
    'DualEncoder',
    'build_image_tower',
    'build_text_tower',
    'load_clip_weights',
    'resolve_arch',
]
