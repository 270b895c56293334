"""ETRIS by class names, CLIP ViT-B/16, COCO-Stuff 164k.

    bash tools/dist_train.sh configs/semseg/etris_vitb16_coco-stuff164k-512x512.py 4

No row of the paper. Here: not run.
"""

_base_ = [
    '../_base_/models/etris_vitb16_class_names.py',
    '../_base_/datasets/coco_stuff164k.py',
    '../_base_/schedules/semseg_80k.py',
    '../_base_/semseg_runtime.py',
]

model = dict(vocabulary=dict(classes='coco-stuff164k'), test_cfg=dict(mode='whole'))
