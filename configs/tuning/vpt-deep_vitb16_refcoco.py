"""VPT-deep, CLIP ViT-B/16, RefCOCO: no row of the paper.

    bash tools/dist_train.sh configs/tuning/vpt-deep_vitb16_refcoco.py 2

Method: Jia et al., "Visual Prompt Tuning", 2022, https://arxiv.org/abs/2203.12119.
Here: not run. Prompt: 460,800 parameters.
50 tokens in every block are a choice: the paper of the method searches the number for each task.
"""

_base_ = './vpt_vitb16_refcoco.py'

model = dict(backbone=dict(tuning=dict(prompt=dict(deep=True))))
