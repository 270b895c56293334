"""DETRIS' own layout in miniature, Shapes: what best_tiny_shapes.py is compared with.

    bash tools/dist_train.sh configs/best/detris_tiny_shapes.py 1

No row of a paper. Meant for one CPU core and ten minutes; the result is in README.md.
"""

_base_ = [
    '../_base_/models/detris_tiny.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/etris_50e.py',
    '../_base_/default_runtime.py',
]

from importlib import import_module

pipelines = import_module('mmetris.datasets.pipelines')
input_size = (96, 96)
max_epochs = 2
learning_rate = 1e-3

train_pipeline, test_pipeline, tta_pipeline = pipelines.adapted(_base_, input_size=input_size, tta_step=2 * 12)
train_dataloader = dict(batch_size=16, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

optim_wrapper = dict(optimizer=dict(lr=learning_rate), clip_grad=dict(max_norm=5))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', by_epoch=True, end=max_epochs, T_max=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
