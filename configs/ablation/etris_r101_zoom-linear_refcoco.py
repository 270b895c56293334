"""ETRIS with linear Zoom Layers, CLIP ResNet-101, RefCOCO: the paper's Table 5, row (a) Linear.

    bash tools/dist_train.sh configs/ablation/etris_r101_zoom-linear_refcoco.py 2

Paper, on val: mIoU 70.94 (printed as "oIoU"), Pr@0.5 / 0.7 / 0.9 82.89 / 72.18 / 17.89; Bridger 5.77 M.
Here: not run. Bridger: 5,766,641 parameters.
"""

_base_ = '../etris/etris_r101_refcoco.py'

# Its linear layers over positions are tied to one grid, so neither --tta nor inputs of another size go with it.
model = dict(neck=dict(zoom_kind='linear', input_hw=_base_.input_size))
