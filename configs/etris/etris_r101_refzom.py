"""ETRIS, CLIP ResNet-101, Ref-ZOM: sentences that mean no object, one, or many.

    bash tools/dist_train.sh configs/etris/etris_r101_refzom.py 2

No row of the paper, which has no such sentences; its recipe as it is, with a sample for each sentence. Here: not run.
Tunable: Bridger 1.94 M, decoder see README.md.
"""

_base_ = [
    '../_base_/models/etris_r101.py',
    '../_base_/datasets/refzom.py',
    '../_base_/schedules/etris_50e.py',
    '../_base_/default_runtime.py',
]

default_hooks = dict(checkpoint=dict(save_best='gIoU'))
