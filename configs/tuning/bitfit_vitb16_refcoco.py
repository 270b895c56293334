"""BitFit, CLIP ViT-B/16, RefCOCO: no row of the paper.

    bash tools/dist_train.sh configs/tuning/bitfit_vitb16_refcoco.py 2

Method: Ben Zaken et al., "BitFit", 2022, https://arxiv.org/abs/2106.10199.
Here: not run. Backbone: 171,008 parameters, all of them biases of CLIP.
"""

_base_ = '../etris/etris_vitb16_refcoco.py'

model = dict(
    backbone=dict(tuning=dict(bitfit=dict(type='BitFit'))),
    text_encoder=dict(tuning=dict(bitfit=dict(type='BitFit'))),
    neck=dict(stages=()),
)
