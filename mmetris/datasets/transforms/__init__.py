"""Steps of a data pipeline. MMSeg's and MMCV's stay available under their own names."""

import mmseg.datasets.transforms  # noqa: F401  registers MMSeg's names

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
