"""Python entry points: build a model, load weights, switch between tasks."""

from .model import init_model, load_weights
from .task_switcher import TaskSwitcher

__all__ = ['TaskSwitcher', 'init_model', 'load_weights']
