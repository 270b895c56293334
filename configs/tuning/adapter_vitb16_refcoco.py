"""Adapter, CLIP ViT-B/16, RefCOCO: no row of the paper.

    bash tools/dist_train.sh configs/tuning/adapter_vitb16_refcoco.py 2

Method: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", 2019, https://arxiv.org/abs/1902.00751.
Here: not run. Backbone: 10,262,016 parameters.
"""

_base_ = './adapter-etris_vitb16_refcoco.py'

model = dict(neck=dict(stages=()))
