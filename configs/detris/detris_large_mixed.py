"""DETRIS, DINOv2 ViT-L/14 and the text side of CLIP ViT-B/16, on RefCOCO, RefCOCO+ and RefCOCOg (UMD) together.

    bash tools/dist_train.sh configs/detris/detris_large_mixed.py 2 --amp

DETRIS's paper (no hardware told here), one model for all: mIoU 81.00 / 81.90 / 79.00 on val / testA / testB of RefCOCO.
Here: not run. Tunable: adapters 33.33 M, decoder 23.20 M.
"""

_base_ = [
    '../_base_/models/detris_large.py',
    '../_base_/datasets/mixed_448px.py',
    '../_base_/schedules/detris_50e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(stage_ends=(1, 9, 17, 24), tuning=dict(aligner=dict(channels=384, layers=tuple(range(1, 24))))),
    text_encoder=dict(tuning=dict(adapter=dict(channels=384, layers=tuple(range(1, 12))))),
)
