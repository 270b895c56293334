"""DETRIS, DINOv2 ViT-B/14 and the text side of CLIP ViT-B/16, RefCOCOg (UMD).

    bash tools/dist_train.sh configs/detris/detris_base_refcocog_umd.py 2 --amp

DETRIS's paper (no hardware told here): mIoU 67.90 / 68.10 on val / test.
Here: not run. Tunable: adapters 2.72 M, decoder 22.80 M.
"""

_base_ = [
    '../_base_/models/detris_base.py',
    '../_base_/datasets/refcocog_umd_448px.py',
    '../_base_/schedules/detris_65e.py',
    '../_base_/default_runtime.py',
]

model = dict(context_length=_base_.context_length)
