"""Scores as plain functions of tensors: they import torch and nothing else."""

from .mask_iou import intersection_and_union, mean_iou, mean_of, overall_iou, precision_at, sample_iou, share_of

__all__ = ['intersection_and_union', 'mean_iou', 'mean_of', 'overall_iou', 'precision_at', 'sample_iou', 'share_of']
