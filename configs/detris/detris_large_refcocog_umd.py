"""DETRIS, DINOv2 ViT-L/14 and the text side of CLIP ViT-B/16, RefCOCOg (UMD).

    bash tools/dist_train.sh configs/detris/detris_large_refcocog_umd.py 2 --amp

DETRIS's paper (no hardware told here): mIoU 69.30 / 70.20 on val / test.
Here: not run. Tunable: adapters 3.11 M, decoder 23.20 M.
"""

_base_ = [
    '../_base_/models/detris_large.py',
    '../_base_/datasets/refcocog_umd_448px.py',
    '../_base_/schedules/detris_50e.py',
    '../_base_/default_runtime.py',
]

model = dict(context_length=_base_.context_length)
