"""Scores as plain functions of tensors: they import torch and nothing else."""

from .mask_iou import intersection_and_union, mean_iou, overall_iou, precision_at, sample_iou

__all__ = ['intersection_and_union', 'mean_iou', 'overall_iou', 'precision_at', 'sample_iou']
