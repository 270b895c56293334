"""LoRA, CLIP ResNet-101, RefCOCO: row "LoRA" of the paper's Table 2.

    bash tools/dist_train.sh configs/tuning/lora_r101_refcoco.py 2

Method: Hu et al., "LoRA", 2022, https://arxiv.org/abs/2106.09685.
Paper, on val: mIoU 68.84 (printed as "oIoU"); backbone 0.03 M, prompt 0.00 K, head 23.98 M.
Here: not run. Backbone: 32,768 parameters; places chosen to match the count.
"""

_base_ = '../etris/etris_r101_refcoco.py'

model = dict(
    # On q and v of the attention pool, and of the attention of each of 12 text layers.
    backbone=dict(tuning=dict(lora=dict(type='LoRA', rank=1))),
    text_encoder=dict(tuning=dict(lora=dict(type='LoRA', rank=1))),
    neck=dict(stages=()),
)
