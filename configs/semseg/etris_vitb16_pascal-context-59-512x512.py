"""ETRIS by class names, CLIP ViT-B/16, Pascal Context, 59 classes; MMSegmentation's pipelines have crops of 480x480.

    bash tools/dist_train.sh configs/semseg/etris_vitb16_pascal-context-59-512x512.py 4

No row of the paper. Here: not run.
"""

_base_ = [
    '../_base_/models/etris_vitb16_class_names.py',
    '../_base_/datasets/pascal_context_59.py',
    '../_base_/schedules/semseg_80k.py',
    '../_base_/semseg_runtime.py',
]

model = dict(
    vocabulary=dict(classes='pascal_context'), test_cfg=dict(mode='slide', crop_size=(480, 480), stride=(320, 320))
)
