"""ETRIS on the tiny CLIP, Shapes, trained for longer than the demo.

    bash tools/dist_train.sh configs/etris/etris_tiny_long_shapes.py 2

No row of the paper. Results in docs/shapes.md.
"""

_base_ = './etris_tiny_shapes.py'

max_epochs = 60

param_scheduler = [
    _base_.param_scheduler[0],
    dict(type='CosineAnnealingLR', by_epoch=True, end=max_epochs, T_max=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
