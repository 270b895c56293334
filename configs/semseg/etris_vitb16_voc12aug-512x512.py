"""ETRIS by class names, CLIP ViT-B/16, Pascal VOC 2012 with SBD.

    bash tools/dist_train.sh configs/semseg/etris_vitb16_voc12aug-512x512.py 4

No row of the paper. Here: not run.
"""

_base_ = [
    '../_base_/models/etris_vitb16_class_names.py',
    '../_base_/datasets/pascal_voc12_aug.py',
    '../_base_/schedules/semseg_40k.py',
    '../_base_/semseg_runtime.py',
]

model = dict(vocabulary=dict(classes='voc', background=0), test_cfg=dict(mode='whole'))
