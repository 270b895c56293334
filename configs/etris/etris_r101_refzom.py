"""ETRIS, CLIP ResNet-101, Ref-ZOM: sentences that mean no object, one, or many.

    bash tools/dist_train.sh configs/etris/etris_r101_refzom.py 2

No row of the paper, which has no such sentences; its recipe with a sample for each sentence and a no-target head, whose
probability from 0.5 on answers "not in the picture". Here: not run.
Tunable: Bridger 1.94 M, decoder see README.md.
"""

_base_ = [
    '../_base_/models/etris_r101.py',
    '../_base_/datasets/refzom.py',
    '../_base_/schedules/etris_50e.py',
    '../_base_/default_runtime.py',
]

model = dict(decode_head=dict(no_target_head=dict(type='NoTargetHead', channels=256, threshold=0.5)))
default_hooks = dict(checkpoint=dict(save_best='gIoU'))
