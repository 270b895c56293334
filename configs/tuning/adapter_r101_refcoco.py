"""Adapter, CLIP ResNet-101, RefCOCO: row "Adapter" of the paper's Tables 2 and 8.

    bash tools/dist_train.sh configs/tuning/adapter_r101_refcoco.py 2

Method: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", 2019, https://arxiv.org/abs/1902.00751.
Paper, on val: mIoU 69.46 (printed as "oIoU"), Pr@0.5 / 0.6 / 0.7 / 0.8 / 0.9 81.05 / 76.59 / 69.69 / 51.27 / 16.16;
backbone 2.39 M, prompt 0.00 K, head 23.98 M.
Here: not run. Backbone: 2,388,352 parameters; places chosen to match the count.
"""

_base_ = './adapter-etris_r101_refcoco.py'

model = dict(neck=dict(stages=()))
