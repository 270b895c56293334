"""Conv Adapter, CLIP ViT-B/16, RefCOCO: no row of the paper.

    bash tools/dist_train.sh configs/tuning/conv-adapter_vitb16_refcoco.py 2

Method: Sung et al., "VL-Adapter", 2022, https://arxiv.org/abs/2112.06825.
Here: not run. Backbone: 3,561,984 parameters.
"""

_base_ = './conv-adapter-etris_vitb16_refcoco.py'

model = dict(neck=dict(stages=()))
