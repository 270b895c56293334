"""ETRIS with a Bridger of width 16, CLIP ResNet-101, RefCOCO: the paper's Table 7, dim 16.

    bash tools/dist_train.sh configs/ablation/etris_r101_dim16_refcoco.py 2

Paper, on val: mIoU 70.78 (printed as "oIoU"), Pr@0.5 / 0.7 / 0.9 82.98 / 70.96 / 17.01; Bridger 0.45 M.
Here: not run. Bridger: 450,384 parameters.
"""

_base_ = '../etris/etris_r101_refcoco.py'

model = dict(neck=dict(embed_dims=16))
