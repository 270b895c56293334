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
from .grefcoco import GRefCocoDataset
from .mixed import MixedRefDataset
from .refcoco import RefCocoDataset
from .samplers import EpochInfiniteSampler
from .shapes_semseg import ShapesSegDataset
from .table import TableRefDataset
from .transforms import (
    FlipExpression,
    Letterbox,
    LoadAnnotations,
    LoadImageFromFile,
    PackSegInputs,
    SeedSample,
    TokenizeExpression,
)

__all__ = [
    'EpochInfiniteSampler',
    'FlipExpression',
    'GRefCocoDataset',
    'Letterbox',
    'LetterboxGeometry',
    'LoadAnnotations',
    'LoadImageFromFile',
    'MixedRefDataset',
    'PackSegInputs',
    'RefCocoDataset',
    'SeedSample',
    'ShapesSegDataset',
    'TableRefDataset',
    'TokenizeExpression',
    'count_tokens',
    'letterbox_geometry',
    'letterbox_image',
    'letterbox_mask',
    'tokenize',
    'undo_letterbox',
]
