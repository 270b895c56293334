"""Python entry points: segment pictures, build a model, load weights, switch between tasks."""

from .inferencer import RefSegInferencer
from .model import init_model, load_weights
from .predictor import RefSegPredictor
from .task_switcher import TaskSwitcher

__all__ = ['RefSegInferencer', 'RefSegPredictor', 'TaskSwitcher', 'init_model', 'load_weights']
