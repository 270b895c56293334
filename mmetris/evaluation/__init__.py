"""Metrics of referring image segmentation."""

import mmseg.evaluation  # noqa: F401  registers MMSegmentation's metrics

from .functional import intersection_and_union, mean_iou, overall_iou, precision_at, sample_iou
from .metrics import RefSegMetric

__all__ = ['RefSegMetric', 'intersection_and_union', 'mean_iou', 'overall_iou', 'precision_at', 'sample_iou']
