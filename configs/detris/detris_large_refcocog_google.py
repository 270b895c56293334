"""DETRIS, DINOv2 ViT-L/14 and the text side of CLIP ViT-B/16, RefCOCOg (Google).

    bash tools/dist_train.sh configs/detris/detris_large_refcocog_google.py 2 --amp

DETRIS's paper (no hardware told here): mIoU 67.90 on val.
Here: not run. Tunable: adapters 3.11 M, decoder 23.20 M.
"""

_base_ = [
    '../_base_/models/detris_large.py',
    '../_base_/datasets/refcocog_google_448px.py',
    '../_base_/schedules/detris_50e.py',
    '../_base_/default_runtime.py',
]
