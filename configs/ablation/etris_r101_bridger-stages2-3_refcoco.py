"""ETRIS with Bridgers at stages 2 and 3, CLIP ResNet-101, RefCOCO: the paper's Table 4, scope 2 -> n, number 2.

    bash tools/dist_train.sh configs/ablation/etris_r101_bridger-stages2-3_refcoco.py 2

Paper, on val: mIoU 70.75 (printed as "oIoU"); Bridger 0.72 M (truncated).
Here: not run. Bridger: 726,656 parameters.
"""

_base_ = '../etris/etris_r101_refcoco.py'

model = dict(neck=dict(stages=(2, 3)))
