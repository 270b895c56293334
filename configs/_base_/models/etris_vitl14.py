"""ETRIS on CLIP ViT-L/14."""

_base_ = './etris_vit.py'

arch = 'ViT-L-14-quickgelu'
clip_checkpoint = 'pretrained/ViT-L-14.pt'

model = dict(
    # Twice the patch, since the Bridger halves the grid.
    data_preprocessor=dict(size_divisor=2 * 14),
    backbone=dict(arch=arch, clip_checkpoint=clip_checkpoint),
    text_encoder=dict(arch=arch, clip_checkpoint=clip_checkpoint),
)
