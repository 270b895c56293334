"""Functions without state that data, models and tools share."""

from .letterbox import LetterboxGeometry, letterbox_geometry, letterbox_image, letterbox_mask, undo_letterbox
from .register import register_all_modules
from .tokenizer import count_tokens, tokenize

__all__ = [
    'LetterboxGeometry',
    'count_tokens',
    'letterbox_geometry',
    'letterbox_image',
    'letterbox_mask',
    'register_all_modules',
    'tokenize',
    'undo_letterbox',
]
