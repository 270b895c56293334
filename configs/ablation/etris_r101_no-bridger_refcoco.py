"""ETRIS without Bridger, CLIP ResNet-101, RefCOCO: the paper's Table 6, without Bridger.

    bash tools/dist_train.sh configs/ablation/etris_r101_no-bridger_refcoco.py 2

Paper, on val: mIoU 67.73 (printed as "oIoU"), Pr@0.5 / 0.7 / 0.9 79.62 / 68.47 / 15.41.
Here: not run. Bridger: none.
"""

_base_ = '../etris/etris_r101_refcoco.py'

model = dict(neck=dict(stages=()))
