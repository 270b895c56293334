"""Full tuning, CLIP ViT-B/16, RefCOCO: no row of the paper.

    bash tools/dist_train.sh configs/tuning/full_vitb16_refcoco.py 2

Method: all weights of both encoders at a tenth of the learning rate, as in CRIS, https://arxiv.org/abs/2111.15174.
Here: not run. Backbone: 149,620,736 parameters.
"""

_base_ = '../etris/etris_vitb16_refcoco.py'

model = dict(backbone=dict(frozen=False), text_encoder=dict(frozen=False), neck=dict(stages=()))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1), text_encoder=dict(lr_mult=0.1))))
