"""The paper's schedule for ViT: the Bridger learns ten times as fast as the decoder, 1e-3 (Sec. 4.2)."""

_base_ = './etris_50e.py'

optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(neck=dict(lr_mult=10))))
