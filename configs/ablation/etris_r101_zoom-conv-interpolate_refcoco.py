"""ETRIS with interpolating Zoom Layers, CLIP ResNet-101, RefCOCO: the paper's Table 5, row (b) Conv&Interpolate.

    bash tools/dist_train.sh configs/ablation/etris_r101_zoom-conv-interpolate_refcoco.py 2

Paper, on val: mIoU 70.08 (printed as "oIoU"), Pr@0.5 / 0.7 / 0.9 81.17 / 68.07 / 15.95; Bridger 1.45 M.
Here: not run. Bridger: 1,450,560 parameters.
"""

_base_ = '../etris/etris_r101_refcoco.py'

model = dict(neck=dict(zoom_kind='conv_interpolate'))
