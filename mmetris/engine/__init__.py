"""Hooks and loops of training and testing."""

import mmseg.engine  # noqa: F401  registers MMSegmentation's hooks and optimizer parts

from .hooks import EpochSeedHook, RefSegVisualizationHook, TunableReportHook
from .loops import SplitTestLoop

__all__ = ['EpochSeedHook', 'RefSegVisualizationHook', 'SplitTestLoop', 'TunableReportHook']
