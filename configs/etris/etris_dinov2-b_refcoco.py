"""ETRIS, DINOv2 ViT-B/14 and the text side of CLIP ViT-B/16, RefCOCO.

    bash tools/dist_train.sh configs/etris/etris_dinov2-b_refcoco.py 2

The paper has no such row. Here: not run.
"""

_base_ = [
    '../_base_/models/etris_dinov2-b.py',
    '../_base_/datasets/refcoco.py',
    '../_base_/schedules/etris_50e_vit.py',
    '../_base_/default_runtime.py',
]

from importlib import import_module

pipelines = import_module('mmetris.datasets.pipelines')
# 30 patches of 14 pixels: an even grid near the 416 of the other models.
input_size = (30 * 14, 30 * 14)

train_pipeline, test_pipeline, tta_pipeline = pipelines.adapted(_base_, input_size=input_size, tta_step=2 * 14)

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
