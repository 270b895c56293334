"""ETRIS by class names on the tiny CLIP, Shapes: 56 names of colour and shape, and a background.

    python tools/dataset_tools/make_shapes.py data/shapes_semseg --layout semseg
    bash tools/dist_train.sh configs/semseg/etris_tiny_shapes-semseg.py 2

No row of the paper. Meant for 2 CPU cores and a few minutes. Results in docs/class_names.md.
"""

_base_ = [
    '../_base_/models/etris_tiny.py',
    '../_base_/datasets/shapes_semseg.py',
    '../_base_/schedules/semseg_40k.py',
    '../_base_/semseg_runtime.py',
]

max_iters = 1500
learning_rate = 2e-3

colours = ('red', 'orange', 'yellow', 'green', 'cyan', 'blue', 'purple', 'pink')
shapes = ('circle', 'square', 'triangle', 'star', 'ring', 'cross', 'heart')
model = dict(
    type='ClassNameSegmentor',
    vocabulary=dict(
        classes=['background', *(f'{colour} {shape}' for colour in colours for shape in shapes)],
        templates=['the {}'],
        background=0,
    ),
    # Half of the time, and names that the picture lacks are met often enough.
    max_train_classes=20,
    text_encoder=dict(type='ClassText'),
    decode_head=dict(loss_decode=dict(_delete_=True, type='CrossEntropyLoss', avg_non_ignore=True)),
    test_cfg=dict(mode='whole'),
)

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='Adam', lr=learning_rate, fused=True),
    clip_grad=dict(max_norm=5),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', by_epoch=False, end=max_iters, T_max=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=max_iters))
