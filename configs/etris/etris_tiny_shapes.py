"""ETRIS on the tiny CLIP, Shapes: what `make demo` trains.

    bash tools/dist_train.sh configs/etris/etris_tiny_shapes.py 2

No row of the paper. Meant for 2 CPU cores and a few minutes; results in docs/shapes.md.
"""

_base_ = [
    '../_base_/models/etris_tiny.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/etris_50e.py',
    '../_base_/default_runtime.py',
]

max_epochs = 3
learning_rate = 2e-3

optim_wrapper = dict(optimizer=dict(lr=learning_rate), clip_grad=dict(max_norm=5))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', by_epoch=True, end=max_epochs, T_max=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
# Many small steps learn more in the same time than few large ones.
train_dataloader = dict(batch_size=8)
