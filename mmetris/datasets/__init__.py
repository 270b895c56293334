"""Referring data sets, their transforms, and the functions behind them."""

from ..utils import (
    LetterboxGeometry,
    count_tokens,
    letterbox_geometry,
    letterbox_image,
    letterbox_mask,
    tokenize,
    undo_letterbox,
)
from . import _mmseg  # noqa: F401  registers MMSeg's names
from .mixed import MixedRefDataset
from .refcoco import RefCocoDataset
from .shapes_semseg import ShapesSegDataset
from .transforms import FlipExpression, Letterbox, LoadAnnotations, LoadImageFromFile, PackSegInputs, TokenizeExpression

__all__ = [
    'FlipExpression',
    'Letterbox',
    'LetterboxGeometry',
    'LoadAnnotations',
    'LoadImageFromFile',
    'MixedRefDataset',
    'PackSegInputs',
    'RefCocoDataset',
    'ShapesSegDataset',
    'TokenizeExpression',
    'count_tokens',
    'letterbox_geometry',
    'letterbox_image',
    'letterbox_mask',
    'tokenize',
    'undo_letterbox',
]
