"""Visual grounding on mmetris's trunk: a box for a sentence."""

from .box_head import PooledBoxHead
from .metric import BoxMetric
from .model import ReferringGrounder
from .transformer_head import TransformerBoxHead

__all__ = ['BoxMetric', 'PooledBoxHead', 'ReferringGrounder', 'TransformerBoxHead']
