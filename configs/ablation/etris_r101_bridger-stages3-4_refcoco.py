"""ETRIS with Bridgers at stages 3 and 4, CLIP ResNet-101, RefCOCO: the paper's Table 4, scope n/2 -> n, number 2.

    bash tools/dist_train.sh configs/ablation/etris_r101_bridger-stages3-4_refcoco.py 2

Paper, on val: mIoU 70.53 (printed as "oIoU"); Bridger 1.51 M.
Here: not run. Bridger: 1,513,088 parameters.
"""

_base_ = '../etris/etris_r101_refcoco.py'

model = dict(neck=dict(stages=(3, 4)))
