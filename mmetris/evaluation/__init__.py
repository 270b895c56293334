"""Metrics of referring image segmentation, and of classes that training did not see."""

import mmseg.evaluation  # noqa: F401  registers MMSegmentation's metrics

from .breakdown import Part, SentenceScore, break_down, load_word_types, word_types
from .functional import intersection_and_union, mean_iou, overall_iou, precision_at, sample_iou
from .metrics import GRefSegMetric, HeldOutIoUMetric, RefSegMetric

__all__ = [
    'GRefSegMetric',
    'HeldOutIoUMetric',
    'Part',
    'RefSegMetric',
    'SentenceScore',
    'break_down',
    'intersection_and_union',
    'load_word_types',
    'mean_iou',
    'overall_iou',
    'precision_at',
    'sample_iou',
    'word_types',
]
