from .clip_resnet import CLIPResNet
from .clip_vit import CLIPViT
from .staged import StagedImageEncoder, StageSpec

__all__ = ['CLIPResNet', 'CLIPViT', 'StageSpec', 'StagedImageEncoder']
