"""Containers that carry samples through pipeline, model, metric and visualizer."""

from .ref_data_sample import RefDataSample

__all__ = ['RefDataSample']
