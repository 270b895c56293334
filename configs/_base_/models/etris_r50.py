"""ETRIS on CLIP ResNet-50."""

_base_ = './etris_rn.py'

model = dict(dual_encoder=dict(arch='RN50-quickgelu', clip_checkpoint='pretrained/RN50.pt'))
