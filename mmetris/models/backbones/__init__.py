from .clip_resnet import CLIPResNet
from .clip_vit import CLIPViT
from .dinov2_vit import DINOv2ViT

__all__ = ['CLIPResNet', 'CLIPViT', 'DINOv2ViT']
