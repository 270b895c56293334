"""Adapter and Bridger, CLIP ViT-B/16, RefCOCO: no row of the paper.

    bash tools/dist_train.sh configs/tuning/adapter-etris_vitb16_refcoco.py 2

Method: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", 2019, https://arxiv.org/abs/1902.00751.
Here: not run. Backbone: 11,652,032 parameters, 1,390,016 of them the Bridger's.
"""

_base_ = '../etris/etris_vitb16_refcoco.py'

# After the attention and after the MLP of every block.
model = dict(
    backbone=dict(tuning=dict(adapter=dict(type='Adapter', reduction=4))),
    text_encoder=dict(tuning=dict(adapter=dict(type='Adapter', reduction=4))),
)
