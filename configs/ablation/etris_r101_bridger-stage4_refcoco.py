"""ETRIS with one Bridger, at stage 4, CLIP ResNet-101, RefCOCO: the paper's Table 4, scope n -> n, number 1.

    bash tools/dist_train.sh configs/ablation/etris_r101_bridger-stage4_refcoco.py 2

Paper, on val: mIoU 69.65 (printed as "oIoU"); Bridger 1.22 M.
Here: not run. Bridger: 1,215,168 parameters.
"""

_base_ = '../etris/etris_r101_refcoco.py'

model = dict(neck=dict(stages=(4,)))
