from .bridger import Bridger, BridgerStage
from .staged_neck import ImagePrefix, StagedNeck
from .text_first import TextFirst
from .text_first_bridger import TextFirstBridger

__all__ = ['Bridger', 'BridgerStage', 'ImagePrefix', 'StagedNeck', 'TextFirst', 'TextFirstBridger']
