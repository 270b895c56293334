"""ETRIS with a Bridger of width 32, CLIP ResNet-101, RefCOCO: the paper's Table 7, dim 32.

    bash tools/dist_train.sh configs/ablation/etris_r101_dim32_refcoco.py 2

Paper, on val: mIoU 70.92 (printed as "oIoU"), Pr@0.5 / 0.7 / 0.9 83.31 / 71.19 / 17.42; Bridger 0.92 M.
Here: not run. Bridger: 923,040 parameters.
"""

_base_ = '../etris/etris_r101_refcoco.py'

model = dict(neck=dict(embed_dims=32))
