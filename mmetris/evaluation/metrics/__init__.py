from .generalized_iou import GRefSegMetric
from .held_out_iou import HeldOutIoUMetric
from .referring_iou import RefSegMetric

__all__ = ['GRefSegMetric', 'HeldOutIoUMetric', 'RefSegMetric']
