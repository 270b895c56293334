"""Hooks, loops and optimizer wrappers of training and testing."""

import mmseg.engine  # noqa: F401  registers MMSegmentation's hooks and optimizer parts

from .hooks import EpochSeedHook, RefSegVisualizationHook, TunableReportHook
from .loops import SplitTestLoop
from .optim_wrappers import BFloat16OptimWrapper

__all__ = ['BFloat16OptimWrapper', 'EpochSeedHook', 'RefSegVisualizationHook', 'SplitTestLoop', 'TunableReportHook']
