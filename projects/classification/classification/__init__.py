"""Classification on mmetris's trunk: an image and names of classes to a class."""

from .data import ClassFolderDataset
from .head import NamePoolingHead
from .hook import ClassNamesHook
from .metric import ClassAccuracy
from .model import BridgedClassifier
from .transforms import ClassDataSample, PackInputs, RandomResizedCrop, ResizeEdge
from .zero_shot import ZeroShotCLIP

__all__ = [
    'BridgedClassifier',
    'ClassAccuracy',
    'ClassDataSample',
    'ClassFolderDataset',
    'ClassNamesHook',
    'NamePoolingHead',
    'PackInputs',
    'RandomResizedCrop',
    'ResizeEdge',
    'ZeroShotCLIP',
]
