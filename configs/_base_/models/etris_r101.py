"""ETRIS on CLIP ResNet-101."""

_base_ = './etris_rn.py'

arch = 'RN101-quickgelu'
clip_checkpoint = 'pretrained/RN101.pt'

model = dict(
    backbone=dict(arch=arch, clip_checkpoint=clip_checkpoint),
    text_encoder=dict(arch=arch, clip_checkpoint=clip_checkpoint),
)
