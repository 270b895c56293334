"""ETRIS with one Bridger, at stage 3, CLIP ResNet-101, RefCOCO: the paper's Table 4, scope n/2 -> n, number 1.

    bash tools/dist_train.sh configs/ablation/etris_r101_bridger-stage3_refcoco.py 2

Paper, on val: mIoU 70.18 (printed as "oIoU"); Bridger 0.29 M (truncated).
Here: not run. Bridger: 297,664 parameters.
"""

_base_ = '../etris/etris_r101_refcoco.py'

model = dict(neck=dict(stages=(3,)))
