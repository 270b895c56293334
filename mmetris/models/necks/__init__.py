from .bridger import Bridger, BridgerStage

__all__ = ['Bridger', 'BridgerStage']
