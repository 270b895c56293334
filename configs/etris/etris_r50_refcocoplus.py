"""ETRIS, CLIP ResNet-50, RefCOCO+: a row of the paper's Table 1.

    bash tools/dist_train.sh configs/etris/etris_r50_refcocoplus.py 2

Paper, on 2 A100 with 40 GB (no hours told): mIoU 60.47 / 67.11 / 50.73 on val / testA / testB (printed as "oIoU").
Here: not run. Tunable: Bridger 1.94 M (1.68 M printed, which does not follow from the text), decoder see README.md.
"""

_base_ = [
    '../_base_/models/etris_r50.py',
    '../_base_/datasets/refcocoplus.py',
    '../_base_/schedules/etris_50e.py',
    '../_base_/default_runtime.py',
]
