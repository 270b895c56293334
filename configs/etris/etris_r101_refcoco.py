"""ETRIS, CLIP ResNet-101, RefCOCO: a row of the paper's Table 1.

    bash tools/dist_train.sh configs/etris/etris_r101_refcoco.py 2

Paper, on 2 A100 with 40 GB (no hours told): mIoU 71.06 / 74.11 / 66.66 on val / testA / testB (printed as "oIoU").
Here: not run. Tunable: Bridger 1.94 M, decoder see README.md.
"""

_base_ = [
    '../_base_/models/etris_r101.py',
    '../_base_/datasets/refcoco.py',
    '../_base_/schedules/etris_50e.py',
    '../_base_/default_runtime.py',
]
