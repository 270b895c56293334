"""A classifier on the tiny CLIP, Shapes: which of 56 things is the large one; results in the README beside it.

    python projects/classification/make_shapes.py data/shapes_classes
    bash tools/dist_train.sh projects/classification/configs/bridged_tiny_shapes-classes.py 1

8 of the 56 classes have no picture in the training; validation and test ask for all.
"""

_base_ = [
    '../../../configs/_base_/models/etris_tiny.py',
    './_base_/folders.py',
    './_base_/schedule.py',
    './_base_/runtime.py',
]

from importlib import import_module

classification = import_module('projects.classification.classification.configs')
shapes = import_module('projects.classification.classification.shapes')

max_epochs = 2
learning_rate = 2e-3
data_root = 'data/shapes_classes/'
held_out = list(shapes.HELD_OUT)

model = classification.classifier(_base_.model, vocabulary=dict(templates=['the {}']))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Letterbox', size=128),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='Letterbox', size=128), dict(type='PackInputs')]
# The images are small and the training meant for a CPU, so each process reads its own data.
loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(**loader, batch_size=16, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(**loader, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = dict(**loader, dataset=dict(data_root=data_root, data_prefix='test', pipeline=test_pipeline))
val_evaluator = dict(held_out=held_out)
test_evaluator = dict(held_out=held_out)

optim_wrapper = dict(optimizer=dict(lr=learning_rate))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', by_epoch=True, end=max_epochs, T_max=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
