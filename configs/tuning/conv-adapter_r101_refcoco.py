"""Conv Adapter, CLIP ResNet-101, RefCOCO: row "Conv Adapter" of the paper's Tables 2 and 8.

    bash tools/dist_train.sh configs/tuning/conv-adapter_r101_refcoco.py 2

Method: Sung et al., "VL-Adapter", 2022, https://arxiv.org/abs/2112.06825.
Paper, on val: mIoU 69.33 (printed as "oIoU"), Pr@0.5 / 0.6 / 0.7 / 0.8 / 0.9 80.79 / 76.62 / 69.80 / 51.69 / 15.95;
backbone 1.20 M, prompt 0.00 K, head 23.98 M.
Here: not run. Backbone: 1,199,488 parameters; places chosen to match the count.
"""

_base_ = './conv-adapter-etris_r101_refcoco.py'

model = dict(neck=dict(stages=()))
