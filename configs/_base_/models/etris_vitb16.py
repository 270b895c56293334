"""ETRIS on CLIP ViT-B/16."""

_base_ = './etris_vit.py'

arch = 'ViT-B-16-quickgelu'
clip_checkpoint = 'pretrained/ViT-B-16.pt'

model = dict(
    backbone=dict(arch=arch, clip_checkpoint=clip_checkpoint),
    text_encoder=dict(arch=arch, clip_checkpoint=clip_checkpoint),
)
