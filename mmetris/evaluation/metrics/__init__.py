from .referring_iou import RefSegMetric

__all__ = ['RefSegMetric']
