"""Frozen encoders, CLIP ResNet-101, RefCOCO: row "Fix Backbone" of the paper's Tables 2 and 8.

    bash tools/dist_train.sh configs/tuning/fixed_r101_refcoco.py 2

Method: both encoders stay as they are, and only the decoder is trained.
Paper, on val: mIoU 67.73 (printed as "oIoU"), Pr@0.5 / 0.6 / 0.7 / 0.8 / 0.9 79.53 / 74.42 / 66.10 / 46.39 / 12.41;
backbone 0.00 M, prompt 0.00 K, head 23.98 M.
Here: not run. Backbone: none. The model is that of ../ablation/etris_r101_no-bridger_refcoco.py.
"""

_base_ = '../etris/etris_r101_refcoco.py'

model = dict(neck=dict(stages=()))
