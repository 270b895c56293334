"""ETRIS on a CLIP ResNet; ``dual_encoder`` comes from the file of one architecture."""

_base_ = './etris.py'

# Strides 8, 16, 32 are brought to 16.
model = dict(backbone=dict(type='CLIPResNet'))
