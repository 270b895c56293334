"""Steps of a data pipeline. MMSeg's and MMCV's, which `mmetris.datasets` imports, keep their own names."""

from .expression import FlipExpression, TokenizeExpression
from .formatting import PackSegInputs
from .letterbox import Letterbox
from .loading import LoadAnnotations, LoadImageFromFile

__all__ = ['FlipExpression', 'Letterbox', 'LoadAnnotations', 'LoadImageFromFile', 'PackSegInputs', 'TokenizeExpression']
