"""ETRIS, CLIP ResNet-101, RefSegRS: aerial images.

    bash tools/dist_train.sh configs/etris/etris_r101_refsegrs.py 2

No row of the paper; its recipe as it is. Here: not run.
Tunable: Bridger 1.94 M, decoder see README.md.
"""

_base_ = [
    '../_base_/models/etris_r101.py',
    '../_base_/datasets/refsegrs.py',
    '../_base_/schedules/etris_50e.py',
    '../_base_/default_runtime.py',
]
