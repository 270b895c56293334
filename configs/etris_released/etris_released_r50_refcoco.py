"""ETRIS as its released code builds it, CLIP ResNet-50, RefCOCO: the architecture of the published checkpoints.

    bash tools/dist_train.sh configs/etris_released/etris_released_r50_refcoco.py 2

The paper, on 2 A100 with 40 GB (no hours told): mIoU 70.39 / 73.11 / 66.38 on val / testA / testB (printed as "oIoU").
Here: not run. Tunable: Bridger 1.94 M, decoder 26.74 M, CLIP's positional embeddings.
"""

_base_ = [
    '../_base_/models/etris_released_rn.py',
    '../_base_/datasets/refcoco.py',
    '../_base_/schedules/etris_50e.py',
    '../_base_/default_runtime.py',
]

model = dict(dual_encoder=dict(arch='RN50-quickgelu', clip_checkpoint='pretrained/RN50.pt'))
