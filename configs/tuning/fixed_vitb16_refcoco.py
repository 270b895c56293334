"""Frozen encoders, CLIP ViT-B/16, RefCOCO: no row of the paper.

    bash tools/dist_train.sh configs/tuning/fixed_vitb16_refcoco.py 2

Method: both encoders stay as they are, and only the decoder is trained.
Here: not run. Backbone: none.
"""

_base_ = '../etris/etris_vitb16_refcoco.py'

model = dict(neck=dict(stages=()))
