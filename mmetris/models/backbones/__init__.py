from .clip_resnet import CLIPResNet
from .clip_vit import CLIPViT
from .dense_clip import DenseCLIPResNet, DenseCLIPViT
from .dinov2_vit import DINOv2ViT
from .timm_clip import CLIPTimmConvNet, CLIPTimmViT

__all__ = ['CLIPResNet', 'CLIPTimmConvNet', 'CLIPTimmViT', 'CLIPViT', 'DINOv2ViT', 'DenseCLIPResNet', 'DenseCLIPViT']
