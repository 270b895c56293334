"""ETRIS on the tiny CLIP, Shapes: the long schedule, then three more epochs at 192 pixels.

    bash tools/dist_train.sh configs/etris/etris_tiny_long_shapes.py 2
    bash tools/dist_train.sh configs/etris/etris_tiny_long-192px_shapes.py 2

No row of the paper. Its weights ship with mmetris (pretrained/): the model that is used where none is named. Results in
docs/shapes.md.
"""

_base_ = './etris_tiny_long_shapes.py'

from importlib import import_module

pipelines = import_module('mmetris.datasets.pipelines')
load_from = 'work_dirs/etris_tiny_long_shapes/epoch_8.pth'
# The best that stride-4 logits can do on val is 85.4 mIoU at 160 pixels and 87.6 at 192.
input_size = (192, 192)
max_epochs = 3

train_pipeline, test_pipeline, tta_pipeline = pipelines.adapted(_base_, input_size=input_size)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    _base_.param_scheduler[0],
    dict(type='CosineAnnealingLR', by_epoch=True, end=max_epochs, T_max=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=max_epochs)
