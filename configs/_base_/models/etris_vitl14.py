"""ETRIS on CLIP ViT-L/14."""

_base_ = './etris_vit.py'

model = dict(
    # Twice the patch, since the Bridger halves the grid.
    data_preprocessor=dict(size_divisor=2 * 14),
    dual_encoder=dict(arch='ViT-L-14-quickgelu', clip_checkpoint='pretrained/ViT-L-14.pt'),
)
