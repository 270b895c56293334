"""ETRIS between DINOv2 ViT-B/14 with registers and the text side of CLIP ViT-B/16."""

_base_ = './etris_vit.py'

model = dict(
    # Twice the patch, since the Bridger halves the grid.
    data_preprocessor=dict(size_divisor=2 * 14),
    # Of the text side; CLIP's image encoder is not used.
    dual_encoder=dict(arch='ViT-B-16-quickgelu', clip_checkpoint='pretrained/ViT-B-16.pt'),
    backbone=dict(
        type='DINOv2ViT',
        arch='dinov2_vitb14_reg',
        checkpoint='pretrained/dinov2_vitb14_reg4_pretrain.pth',
        # As DINOv2's towers with registers were published.
        interpolate_offset=0.0,
        interpolate_antialias=True,
    ),
)
