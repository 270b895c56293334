"""Full tuning, CLIP ResNet-101, RefCOCO: row "Full-Tuning" of the paper's Tables 2 and 8.

    bash tools/dist_train.sh configs/tuning/full_r101_refcoco.py 2

Method: all weights of both encoders at a tenth of the learning rate, as in CRIS, https://arxiv.org/abs/2111.15174.
Paper, on val: mIoU 70.47 (printed as "oIoU"), Pr@0.5 / 0.6 / 0.7 / 0.8 / 0.9 82.62 / 78.35 / 71.35 / 54.47 / 17.69;
backbone 120.74 M, prompt 0.00 K, head 23.98 M.
Here: not run. Backbone: 120,737,632 parameters.
"""

_base_ = '../etris/etris_r101_refcoco.py'

model = dict(
    # Statistics of BatchNorm move too. The shortcut around the pool, random at first, is in the printed count.
    backbone=dict(frozen=False, pool_shortcut=True),
    text_encoder=dict(frozen=False),
    neck=dict(stages=()),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1), text_encoder=dict(lr_mult=0.1))))
