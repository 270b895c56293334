"""CRIS, CLIP ResNet-50, RefCOCO: the fully tuned baseline of ETRIS's Tables 1 and 3.

    bash tools/dist_train.sh configs/cris/cris_r50_refcoco.py 8

CRIS's paper, on 8 V100 with 16 GB (no hours told): mIoU 69.52 / 72.72 / 64.70 on val / testA / testB.
Here: not run. Tunable: all of CLIP (104.11 M), decoder 42.74 M.
"""

_base_ = [
    '../_base_/models/cris.py',
    '../_base_/datasets/refcoco.py',
    '../_base_/schedules/cris_50e.py',
    '../_base_/default_runtime.py',
]

model = dict(dual_encoder=dict(arch='RN50-quickgelu', clip_checkpoint='pretrained/RN50.pt'))

batch_size = 8  # on each of 8 GPUs
train_dataloader = dict(batch_size=batch_size)
val_dataloader = dict(batch_size=batch_size)
test_dataloader = dict(batch_size=batch_size)
