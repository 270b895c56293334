"""Metrics of referring image segmentation, and of classes that training did not see."""

import mmseg.evaluation  # noqa: F401  registers MMSegmentation's metrics

from .functional import intersection_and_union, mean_iou, overall_iou, precision_at, sample_iou
from .metrics import HeldOutIoUMetric, RefSegMetric

__all__ = [
    'HeldOutIoUMetric', 'RefSegMetric', 'intersection_and_union', 'mean_iou', 'overall_iou', 'precision_at',
    'sample_iou'
]
