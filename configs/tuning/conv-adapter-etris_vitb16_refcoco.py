"""Conv Adapter and Bridger, CLIP ViT-B/16, RefCOCO: no row of the paper.

    bash tools/dist_train.sh configs/tuning/conv-adapter-etris_vitb16_refcoco.py 2

Method: Sung et al., "VL-Adapter", 2022, https://arxiv.org/abs/2112.06825.
Here: not run. Backbone: 4,952,000 parameters, 1,390,016 of them the Bridger's.
"""

_base_ = '../etris/etris_vitb16_refcoco.py'

# Parallel to the MLP of every block, whose tokens are cells of a map; nothing in the text encoder.
model = dict(backbone=dict(tuning=dict(adapter=dict(type='ConvAdapter', places='ffn'))))
