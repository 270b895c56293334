"""ETRIS with one Bridger, at stage 2, CLIP ResNet-101, RefCOCO: the paper's Table 4, scope 2 -> n, number 1.

    bash tools/dist_train.sh configs/ablation/etris_r101_bridger-stage2_refcoco.py 2

Paper, on val: mIoU 70.96 (printed as "oIoU"); Bridger 0.43 M.
Here: not run. Bridger: 428,736 parameters.
"""

_base_ = '../etris/etris_r101_refcoco.py'

model = dict(neck=dict(stages=(2,)))
