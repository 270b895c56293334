"""ETRIS with MLPs as Zoom Layers, CLIP ResNet-101, RefCOCO: the paper's Table 5, row (c) MLP.

    bash tools/dist_train.sh configs/ablation/etris_r101_zoom-mlp_refcoco.py 2

Paper, on val: mIoU 70.62 (printed as "oIoU"), Pr@0.5 / 0.7 / 0.9 82.36 / 71.05 / 17.70; Bridger 1.68 M.
Here: not run. Bridger: 1,682,633 parameters.
"""

_base_ = '../etris/etris_r101_refcoco.py'

# Its MLPs over positions are tied to one grid, so neither --tta nor inputs of another size go with it.
model = dict(neck=dict(zoom_kind='mlp', input_hw=_base_.input_size))
