"""ETRIS, CLIP ResNet-101, RefCOCO, tested on RefCOCO-M: val with masks that were drawn anew.

    bash tools/dist_train.sh configs/etris/etris_r101_refcoco_m.py 2

No row of the paper. Trained and validated as etris_r101_refcoco, whose checkpoints it tests. Here: not run.
Tunable: Bridger 1.94 M, decoder see README.md.
"""

_base_ = [
    '../_base_/models/etris_r101.py',
    '../_base_/datasets/refcoco_m.py',
    '../_base_/schedules/etris_50e.py',
    '../_base_/default_runtime.py',
]
