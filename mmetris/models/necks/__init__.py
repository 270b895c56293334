from .bridger import Bridger, BridgerStage
from .staged_neck import ImagePrefix, StagedNeck
from .text_first import TextFirst

__all__ = ['Bridger', 'BridgerStage', 'ImagePrefix', 'StagedNeck', 'TextFirst']
