"""DETRIS's schedule: 50 epochs of Adam at one rate for all, x0.1 at epoch 35, 32 samples a step."""

_base_ = './etris_50e.py'

# BatchNorm's statistics, those of the adapters among them, are of all samples of a step.
sync_bn = 'torch'
