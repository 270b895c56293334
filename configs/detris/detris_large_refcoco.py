"""DETRIS, DINOv2 ViT-L/14 and the text side of CLIP ViT-B/16, RefCOCO.

    bash tools/dist_train.sh configs/detris/detris_large_refcoco.py 2 --amp

DETRIS's paper (no hardware told here): mIoU 77.30 / 79.00 / 75.20 on val / testA / testB.
Here: not run. Tunable: adapters 3.11 M, decoder 23.20 M.
"""

_base_ = [
    '../_base_/models/detris_large.py',
    '../_base_/datasets/refcoco_448px.py',
    '../_base_/schedules/detris_50e.py',
    '../_base_/default_runtime.py',
]
