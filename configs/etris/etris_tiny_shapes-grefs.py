"""ETRIS on the tiny CLIP, Shapes with sentences that mean nothing, one object or several, with a no-target head.

    python tools/dataset_tools/make_shapes.py data/shapes_grefs --layout grefcoco
    bash tools/dist_train.sh configs/etris/etris_tiny_shapes-grefs.py 2

No row of the paper. Starts from the demo model, whose sentences all mean one object; meant for a CPU and minutes.
Results in docs/shapes.md.
"""

_base_ = [
    '../_base_/models/etris_tiny.py',
    '../_base_/datasets/shapes_grefs.py',
    '../_base_/schedules/etris_50e.py',
    '../_base_/default_runtime.py',
]

load_from = 'mmetris://pretrained/etris_tiny_long-192px_shapes.pth'
max_epochs = 1
learning_rate = 1e-3

model = dict(decode_head=dict(no_target_head=dict(type='NoTargetHead', channels=64)))

optim_wrapper = dict(optimizer=dict(lr=learning_rate), clip_grad=dict(max_norm=5))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', by_epoch=True, end=max_epochs, T_max=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
train_dataloader = dict(batch_size=8)
default_hooks = dict(checkpoint=dict(save_best='gIoU'))
