"""LoRA, CLIP ViT-B/16, RefCOCO: no row of the paper.

    bash tools/dist_train.sh configs/tuning/lora_vitb16_refcoco.py 2

Method: Hu et al., "LoRA", 2022, https://arxiv.org/abs/2106.09685.
Here: not run. Backbone: 245,760 parameters.
"""

_base_ = '../etris/etris_vitb16_refcoco.py'

# On q and v of the attention of every block.
model = dict(
    backbone=dict(tuning=dict(lora=dict(type='LoRA', rank=4))),
    text_encoder=dict(tuning=dict(lora=dict(type='LoRA', rank=4))),
    neck=dict(stages=()),
)
