"""ETRIS on CLIP ResNet-50."""

_base_ = './etris_rn.py'

arch = 'RN50-quickgelu'
clip_checkpoint = 'pretrained/RN50.pt'

model = dict(
    backbone=dict(arch=arch, clip_checkpoint=clip_checkpoint),
    text_encoder=dict(arch=arch, clip_checkpoint=clip_checkpoint),
)
