"""CoOp, CLIP ViT-B/16, RefCOCO: no row of the paper.

    bash tools/dist_train.sh configs/tuning/coop_vitb16_refcoco.py 2

Method: Zhou et al., "Learning to Prompt for Vision-Language Models", 2022, https://arxiv.org/abs/2109.01134.
Here: not run. Prompt: 4,096 parameters.
"""

_base_ = '../etris/etris_vitb16_refcoco.py'

model = dict(
    text_encoder=dict(tuning=dict(prompt=dict(type='PromptTokens', num_tokens=8))),
    neck=dict(stages=()),
)
