"""ETRIS as its released code builds it, CLIP ResNet-101, RefCOCO: the architecture of the published checkpoints.

    bash tools/dist_train.sh configs/etris_released/etris_released_r101_refcoco.py 2

The paper, on 2 A100 with 40 GB (no hours told): mIoU 71.06 / 74.11 / 66.66 on val / testA / testB (printed as "oIoU").
Here: not run. Tunable: Bridger 1.94 M, decoder 24.24 M, CLIP's positional embeddings.
"""

_base_ = [
    '../_base_/models/etris_released_rn.py',
    '../_base_/datasets/refcoco.py',
    '../_base_/schedules/etris_50e.py',
    '../_base_/default_runtime.py',
]

model = dict(dual_encoder=dict(arch='RN101-quickgelu', clip_checkpoint='pretrained/RN101.pt'))
