"""CRIS's schedule: 50 epochs of Adam, x0.1 at epoch 35, 64 samples a step on 8 GPUs; CLIP learns at a tenth."""

_base_ = './etris_50e.py'

clip_rate = 0.1

# The longest key that is part of a parameter's name counts: positions, in both encoders, learn at the full rate.
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(
            backbone=dict(lr_mult=clip_rate),
            text_encoder=dict(lr_mult=clip_rate),
            positional_embedding=dict(lr_mult=1.0),
        )
    )
)
auto_scale_lr = dict(base_batch_size=8 * 8)
# BatchNorm's statistics, those of the sentences' projection among them, are of all samples of a step.
sync_bn = 'torch'
