"""Clicks on the masks of the model that ships (tiny CLIP, Shapes, 192 pixels); results in projects/clicks/README.md.

bash tools/dist_train.sh projects/clicks/configs/clicks_tiny_shapes.py 2
"""

_base_ = '../../../configs/etris/etris_tiny_long-192px_shapes.py'

from importlib import import_module

clicks = import_module('projects.clicks.clicks.configs')
custom_imports = clicks.IMPORTS

# data/shapes_large of the base config has four times as many pictures to train on; val and test are the same.
data_root = 'data/shapes/'
load_from = 'mmetris://pretrained/etris_tiny_long-192px_shapes.pth'
max_epochs = 2

model = dict(clicks.with_clicks(channels=64, fine_channels=24, num_heads=4), num_clicks=5)
train_dataloader = dict(batch_size=8, dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = dict(dataset=dict(data_root=data_root))

val_evaluator = clicks.EVALUATORS
test_evaluator = clicks.EVALUATORS
default_hooks = clicks.HOOKS
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    _base_.param_scheduler[0],
    dict(type='CosineAnnealingLR', by_epoch=True, end=max_epochs, T_max=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=max_epochs)
