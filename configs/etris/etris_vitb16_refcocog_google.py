"""ETRIS, CLIP ViT-B/16, RefCOCOg (Google): a row of the paper's Table 1.

    bash tools/dist_train.sh configs/etris/etris_vitb16_refcocog_google.py 2

Paper, on 2 A100 with 40 GB (no hours told): mIoU 57.88 on val, whose images are also in train (printed as "oIoU").
Here: not run. Tunable: Bridger 1.39 M, decoder see README.md.
"""

_base_ = [
    '../_base_/models/etris_vitb16.py',
    '../_base_/datasets/refcocog_google.py',
    '../_base_/schedules/etris_50e_vit.py',
    '../_base_/default_runtime.py',
]
