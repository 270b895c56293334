"""Clicks that correct the mask of a sentence, on mmetris's trunk."""

from .click_head import ClickHead
from .metric import ClickMetric
from .model import ClickSegmentor
from .points import Click
from .predictor import ClickPredictor
from .simulation import next_click

__all__ = ['Click', 'ClickHead', 'ClickMetric', 'ClickPredictor', 'ClickSegmentor', 'next_click']
