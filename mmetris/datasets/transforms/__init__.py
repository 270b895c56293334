"""Steps of a data pipeline. MMSeg's and MMCV's, which `mmetris.datasets` imports, keep their own names."""

from .expression import FlipExpression, TokenizeExpression
from .formatting import PackSegInputs
from .letterbox import Letterbox
from .loading import InferencerLoader, LoadAnnotations, LoadImageFromFile
from .seeding import SeedSample

__all__ = [
    'FlipExpression',
    'InferencerLoader',
    'Letterbox',
    'LoadAnnotations',
    'LoadImageFromFile',
    'PackSegInputs',
    'SeedSample',
    'TokenizeExpression',
]
