"""ETRIS without hierarchical alignment, CLIP ResNet-101, RefCOCO: the paper's Table 6, without HA.

    bash tools/dist_train.sh configs/ablation/etris_r101_no-hierarchical_refcoco.py 2

Paper, on val: mIoU 58.70 (printed as "oIoU"), Pr@0.5 / 0.7 / 0.9 69.53 / 45.52 / 4.33.
Here: not run. Decoder: 13,737,473 parameters.
"""

_base_ = '../etris/etris_r101_refcoco.py'

# The paper does not say what stands in its place; here the last map, brought to the width and stride of the decoder.
model = dict(decode_head=dict(hierarchical_alignment=None))
