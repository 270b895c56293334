from .clip_resnet import CLIPResNet
from .clip_vit import CLIPViT
from .staged import StagedImageEncoder, StageSpec

# isort: split
from .bridged_backbone import BridgedBackbone

__all__ = ['BridgedBackbone', 'CLIPResNet', 'CLIPViT', 'StageSpec', 'StagedImageEncoder']
