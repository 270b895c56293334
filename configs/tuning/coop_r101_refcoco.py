"""CoOp, CLIP ResNet-101, RefCOCO: row "CoOp" of the paper's Table 2.

    bash tools/dist_train.sh configs/tuning/coop_r101_refcoco.py 2

Method: Zhou et al., "Learning to Prompt for Vision-Language Models", 2022, https://arxiv.org/abs/2109.01134.
Paper, on val: mIoU 67.87 (printed as "oIoU"); backbone 0.00 M, prompt 4.10 K, head 23.98 M.
Here: not run. Prompt: 4,096 parameters.
"""

_base_ = '../etris/etris_r101_refcoco.py'

model = dict(
    text_encoder=dict(tuning=dict(prompt=dict(type='PromptTokens', num_tokens=8))),
    neck=dict(stages=()),
)
