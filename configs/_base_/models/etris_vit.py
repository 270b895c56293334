"""ETRIS on a CLIP ViT; ``dual_encoder`` comes from the file of one architecture."""

_base_ = './etris.py'

model = dict(
    backbone=dict(type='CLIPViT', num_stages=4),  # The text encoder is cut likewise.
    # All stages have the same grid; the Bridger still zooms by 1/2, 1, 2, with BatchNorm and ReLU (1.39 M).
    neck=dict(scales=(0.5, 1, 2), zoom_norm=True),
)
