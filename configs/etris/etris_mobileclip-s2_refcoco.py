"""ETRIS, MobileCLIP-S2, RefCOCO.

    bash tools/dist_train.sh configs/etris/etris_mobileclip-s2_refcoco.py 2

The paper has no such row. Here: not run.
"""

_base_ = [
    '../_base_/models/etris_mobileclip-s2.py',
    '../_base_/datasets/refcoco.py',
    '../_base_/schedules/etris_50e.py',
    '../_base_/default_runtime.py',
]

from importlib import import_module

pipelines = import_module('mmetris.datasets.pipelines')
# Its text encoder reads in both directions, so that features depend on the length: that of its training.
context_length = 77

train_pipeline, test_pipeline, tta_pipeline = pipelines.adapted(_base_, context_length=context_length)

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
