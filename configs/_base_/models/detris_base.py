"""DETRIS on DINOv2 ViT-B/14 with registers."""

_base_ = './detris.py'

model = dict(
    backbone=dict(
        arch='dinov2_vitb14_reg',
        checkpoint='pretrained/dinov2_vitb14_reg4_pretrain.pth',
        # Maps after blocks 4 and 8 (from 0) and the last. Block 0, without adapter, runs once for each image.
        stage_ends=(1, 5, 9, 12),
        tuning=dict(aligner=dict(layers=(1, 3, 5, 7, 9, 11))),
    )
)
