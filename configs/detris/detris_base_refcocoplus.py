"""DETRIS, DINOv2 ViT-B/14 and the text side of CLIP ViT-B/16, RefCOCO+.

    bash tools/dist_train.sh configs/detris/detris_base_refcocoplus.py 2 --amp

DETRIS's paper (no hardware told here): mIoU 68.90 / 74.00 / 61.50 on val / testA / testB.
Here: not run. Tunable: adapters 2.72 M, decoder 22.80 M.
"""

_base_ = [
    '../_base_/models/detris_base.py',
    '../_base_/datasets/refcocoplus_448px.py',
    '../_base_/schedules/detris_50e.py',
    '../_base_/default_runtime.py',
]
