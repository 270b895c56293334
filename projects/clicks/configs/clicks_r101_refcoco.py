"""Clicks on the masks of ETRIS, CLIP ResNet-101, RefCOCO: `load_from` is a training of the base config.

    bash tools/dist_train.sh configs/etris/etris_r101_refcoco.py 2
    bash tools/dist_train.sh projects/clicks/configs/clicks_r101_refcoco.py 2

Not run here.
"""

_base_ = '../../../configs/etris/etris_r101_refcoco.py'

from importlib import import_module

clicks = import_module('projects.clicks.clicks.configs')
custom_imports = clicks.IMPORTS

load_from = 'work_dirs/etris_r101_refcoco/epoch_50.pth'
max_epochs = 5

model = clicks.with_clicks()
# Ten times that of ETRIS: little is trained, and from nothing.
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=500),
    dict(type='CosineAnnealingLR', by_epoch=True, end=max_epochs, T_max=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=max_epochs)

val_evaluator = clicks.EVALUATORS
test_evaluator = clicks.EVALUATORS
default_hooks = clicks.HOOKS
