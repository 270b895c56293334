"""ETRIS on the tiny CLIP, a handful of photographs in RefCOCO's layout, learnt by heart.

    REFER_ROOT=my_photos/ bash tools/dist_train.sh configs/etris/etris_tiny_few-photos_refcoco.py 2 \
        --cfg-options val_dataloader.dataset.split=train

No row of the paper. It shows on a CPU in minutes whether one's own files are right: a model that cannot learn a few
photographs by heart has been given wrong masks or sentences. The tiny CLIP knows drawn shapes only, so its image
encoder is tuned as well. Results in docs/shapes.md.
"""

_base_ = [
    '../_base_/models/etris_tiny.py',
    '../_base_/datasets/refcoco.py',
    '../_base_/schedules/etris_50e.py',
    '../_base_/default_runtime.py',
]

from importlib import import_module

pipelines = import_module('mmetris.datasets.pipelines')
input_size = (224, 224)
max_epochs = 140
learning_rate = 2e-3

# Persons far away cover few pixels: logits of stride 2, and a loss that counts each mask alike, however small.
model = dict(
    backbone=dict(frozen=False),
    decode_head=dict(
        channels=32,
        stride=8,
        loss_decode=[dict(type='TextToPixelContrastiveLoss'), dict(type='DiceLoss', loss_weight=0.1)],
    ),
)

train_pipeline, test_pipeline, tta_pipeline = pipelines.adapted(_base_, input_size=input_size)
loading = dict(num_workers=0, persistent_workers=False)
# Every sentence once in an epoch.
train_dataloader = dict(**loading, batch_size=4, dataset=dict(pipeline=train_pipeline, text_mode='original'))
val_dataloader = dict(**loading, batch_size=8, dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(**loading, batch_size=8, dataset=dict(pipeline=test_pipeline))

optim_wrapper = dict(optimizer=dict(lr=learning_rate), clip_grad=dict(max_norm=5))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=20),
    dict(type='CosineAnnealingLR', by_epoch=True, end=max_epochs, T_max=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
# An epoch has three steps; a checkpoint after each would take as long as they do.
default_hooks = dict(checkpoint=dict(interval=max_epochs))
