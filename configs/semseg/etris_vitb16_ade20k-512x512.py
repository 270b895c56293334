"""ETRIS by class names, CLIP ViT-B/16, ADE20K.

    bash tools/dist_train.sh configs/semseg/etris_vitb16_ade20k-512x512.py 4

No row of the paper. Here: not run.
"""

_base_ = [
    '../_base_/models/etris_vitb16_class_names.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/semseg_160k.py',
    '../_base_/semseg_runtime.py',
]

model = dict(vocabulary=dict(classes='ade20k'), test_cfg=dict(mode='whole'))
