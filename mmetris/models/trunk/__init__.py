from .bridged_backbone import BridgedBackbone
from .bridged_model import BridgedModel
from .prefix_cache import PrefixCache

__all__ = ['BridgedBackbone', 'BridgedModel', 'PrefixCache']
