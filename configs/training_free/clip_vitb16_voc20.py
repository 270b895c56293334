"""Frozen CLIP ViT-B/16 by class names, Pascal VOC 2012 without its background, 20 classes.

    mmetris download clip-vitb16
    bash tools/dist_test.sh configs/training_free/clip_vitb16_voc20.py - 4

Published (SCLIP): mIoU 81.54. Here: not run.
"""

_base_ = [
    '../_base_/models/clip_training_free.py',
    '../_base_/datasets/pascal_voc12_aug.py',
    '../_base_/schedules/no_training.py',
    '../_base_/semseg_runtime.py',
]

scale = (2048, 336)  # the longer side at most, the shorter side at most

test_pipeline = [dict(step, scale=scale) if step.type == 'Resize' else step for step in _base_.test_pipeline]
labels = (
    *('aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow', 'diningtable', 'dog'),
    *('horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor'),
)
spelling = dict(diningtable='dining table', pottedplant='potted plant', tvmonitor='tv monitor')

model = dict(vocabulary=dict(classes=[spelling.get(label, label) for label in labels]))
# The label of the background, which is not among these, becomes 255 and is ignored.
metainfo = dict(classes=labels)
train_dataloader = None
val_dataloader = dict(dataset=dict(metainfo=metainfo, pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(metainfo=metainfo, pipeline=test_pipeline))
