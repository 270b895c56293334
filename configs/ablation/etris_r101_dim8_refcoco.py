"""ETRIS with a Bridger of width 8, CLIP ResNet-101, RefCOCO: the paper's Table 7, dim 8.

    bash tools/dist_train.sh configs/ablation/etris_r101_dim8_refcoco.py 2

Paper, on val: mIoU 70.55 (printed as "oIoU"), Pr@0.5 / 0.7 / 0.9 82.56 / 70.52 / 16.60; Bridger 0.22 M.
Here: not run. Bridger: 223,272 parameters.
"""

_base_ = '../etris/etris_r101_refcoco.py'

model = dict(neck=dict(embed_dims=8))
