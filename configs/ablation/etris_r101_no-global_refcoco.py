"""ETRIS without global alignment, CLIP ResNet-101, RefCOCO: the paper's Table 6, without GA.

    bash tools/dist_train.sh configs/ablation/etris_r101_no-global_refcoco.py 2

Paper, on val: mIoU 62.21 (printed as "oIoU"), Pr@0.5 / 0.7 / 0.9 71.51 / 53.41 / 11.16.
Here: not run. Decoder: 16,082,433 parameters.
"""

_base_ = '../etris/etris_r101_refcoco.py'

model = dict(decode_head=dict(global_alignment=None))
