"""Frozen CLIP ViT-B/16 by class names, ADE20K, 150 classes.

    mmetris download clip-vitb16
    bash tools/dist_test.sh configs/training_free/clip_vitb16_ade20k.py - 4

Published (SCLIP): mIoU 16.45. Here: not run.
"""

_base_ = [
    '../_base_/models/clip_training_free.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/no_training.py',
    '../_base_/semseg_runtime.py',
]

scale = (2048, 336)  # the longer side at most, the shorter side at most

test_pipeline = [dict(step, scale=scale) if step.type == 'Resize' else step for step in _base_.test_pipeline]

model = dict(vocabulary=dict(classes='ade20k'))
train_dataloader = None
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
