"""ETRIS on CLIP ViT-B/16."""

_base_ = './etris_vit.py'

model = dict(dual_encoder=dict(arch='ViT-B-16-quickgelu', clip_checkpoint='pretrained/ViT-B-16.pt'))
