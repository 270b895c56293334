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
from .phrasecut import PhraseCutDataset
from .refcoco import RefCocoDataset
from .refcoco_m import RefCocoMDataset
from .refer_sets import RefClefDataset, RRSISDDataset
from .refsegrs import RefSegRSDataset
from .refzom import RefZomDataset
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
    'PhraseCutDataset',
    'RRSISDDataset',
    'RefClefDataset',
    'RefCocoDataset',
    'RefCocoMDataset',
    'RefSegRSDataset',
    'RefZomDataset',
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
