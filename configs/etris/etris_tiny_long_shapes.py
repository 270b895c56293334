"""ETRIS on the tiny CLIP, Shapes, trained for longer than the demo, on more and larger images.

    python tools/dataset_tools/make_shapes.py data/shapes_large --num-train 10800 --workers 2
    bash tools/dist_train.sh configs/etris/etris_tiny_long_shapes.py 2

No row of the paper. More images change only the train split: val, testA and testB are those of data/shapes. Results in
docs/shapes.md.
"""

_base_ = './etris_tiny_shapes.py'

from importlib import import_module

pipelines = import_module('mmetris.datasets.pipelines')
data_root = 'data/shapes_large/'
# At 128 pixels the stride-4 logits alone cost 18 points of mIoU, at 160 pixels 15.
input_size = (160, 160)
max_epochs = 8

train_pipeline, test_pipeline, tta_pipeline = pipelines.adapted(_base_, input_size=input_size)
train_dataloader = dict(batch_size=16, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline))

param_scheduler = [
    _base_.param_scheduler[0],
    dict(type='CosineAnnealingLR', by_epoch=True, end=max_epochs, T_max=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=1)
