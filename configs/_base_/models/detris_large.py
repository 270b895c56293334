"""DETRIS on DINOv2 ViT-L/14 with registers."""

_base_ = './detris.py'

model = dict(
    backbone=dict(
        arch='dinov2_vitl14_reg',
        checkpoint='pretrained/dinov2_vitl14_reg4_pretrain.pth',
        # Maps after blocks 8 and 16 (from 0) and the last. Blocks 0 and 1, without adapter, run once for each image.
        stage_ends=(2, 9, 17, 24),
        tuning=dict(aligner=dict(layers=(2, 6, 10, 14, 18, 22))),
    )
)
