"""ETRIS by class names, CLIP ViT-B/16, Cityscapes.

    bash tools/dist_train.sh configs/semseg/etris_vitb16_cityscapes-512x1024.py 4

No row of the paper. Here: not run.
"""

_base_ = [
    '../_base_/models/etris_vitb16_class_names.py',
    '../_base_/datasets/cityscapes.py',
    '../_base_/schedules/semseg_80k.py',
    '../_base_/semseg_runtime.py',
]

model = dict(
    vocabulary=dict(classes='cityscapes'), test_cfg=dict(mode='slide', crop_size=(512, 1024), stride=(341, 683))
)

auto_scale_lr = dict(base_batch_size=8)
