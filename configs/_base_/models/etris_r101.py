"""ETRIS on CLIP ResNet-101."""

_base_ = './etris_rn.py'

model = dict(dual_encoder=dict(arch='RN101-quickgelu', clip_checkpoint='pretrained/RN101.pt'))
