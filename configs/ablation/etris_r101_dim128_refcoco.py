"""ETRIS with a Bridger of width 128, CLIP ResNet-101, RefCOCO: the paper's Table 7, dim 128.

    bash tools/dist_train.sh configs/ablation/etris_r101_dim128_refcoco.py 2

Paper, on val: mIoU 70.39 (printed as "oIoU"), Pr@0.5 / 0.7 / 0.9 82.51 / 71.12 / 16.99; Bridger 4.28 M.
Here: not run. Bridger: 4,275,072 parameters.
"""

_base_ = '../etris/etris_r101_refcoco.py'

model = dict(neck=dict(embed_dims=128))
