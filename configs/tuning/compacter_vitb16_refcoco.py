"""Compacter, CLIP ViT-B/16, RefCOCO: no row of the paper.

    bash tools/dist_train.sh configs/tuning/compacter_vitb16_refcoco.py 2

Method: Mahabadi et al., "Compacter", 2021, https://arxiv.org/abs/2106.04647.
Here: not run. Backbone: 95,104 parameters.
"""

_base_ = '../etris/etris_vitb16_refcoco.py'

# After the attention and after the MLP of every block. The same name on both sides: both have one rule.
model = dict(
    backbone=dict(tuning=dict(compacter=dict(type='Compacter', reduction=32))),
    text_encoder=dict(tuning=dict(compacter=dict(type='Compacter', reduction=32))),
    neck=dict(stages=()),
)
