"""Conv Adapter and Bridger, CLIP ResNet-101, RefCOCO: row "Conv Adapter+ETRIS" of the paper's Table 8.

    bash tools/dist_train.sh configs/tuning/conv-adapter-etris_r101_refcoco.py 2

Method: Sung et al., "VL-Adapter", 2022, https://arxiv.org/abs/2112.06825.
Paper, on val: mIoU 72.11 (printed as "oIoU"), Pr@0.5 / 0.6 / 0.7 / 0.8 / 0.9 84.46 / 80.27 / 73.92 / 57.13 / 18.74;
backbone 3.14 M, prompt 0.00 K, head 23.98 M.
Here: not run. Backbone: 3,141,568 parameters, 1,942,080 of them the Bridger's; places chosen to match the count.
"""

_base_ = '../etris/etris_r101_refcoco.py'

# Parallel to the 3x3 convolution of every bottleneck of layers 2 to 4; nothing in the text encoder.
model = dict(backbone=dict(tuning=dict(adapter=dict(type='ConvAdapter'))))
