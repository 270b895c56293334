"""Python entry points: segment pictures and videos, classify pictures, build a model, load weights, switch tasks, share
on the hub."""

from .classification import Classification, ImageClassificationInferencer
from .hub import from_pretrained, push_to_hub, save_pretrained
from .inferencer import RefSegInferencer
from .model import init_model, load_weights
from .predictor import RefSegPredictor
from .task_switcher import TaskSwitcher
from .videos import VideoReport, segment_video

__all__ = [
    'Classification',
    'ImageClassificationInferencer',
    'RefSegInferencer',
    'RefSegPredictor',
    'TaskSwitcher',
    'VideoReport',
    'from_pretrained',
    'init_model',
    'load_weights',
    'push_to_hub',
    'save_pretrained',
    'segment_video',
]
