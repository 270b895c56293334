"""RefCOCOg (G-Ref), UMD splits: longer sentences; no image is in two splits."""

_base_ = './refcoco.py'

from importlib import import_module

pipelines = import_module('mmetris.datasets.pipelines')
ann_file = 'refcocog/instances.json'
split_file = 'refcocog/refs(umd).p'
context_length = 22

train_pipeline, test_pipeline, tta_pipeline = pipelines.adapted(_base_, context_length=context_length)

train_dataloader = dict(dataset=dict(ann_file=ann_file, split_file=split_file, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(ann_file=ann_file, split_file=split_file, pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(ann_file=ann_file, split_file=split_file, split='test', pipeline=test_pipeline))
test_cfg = dict(splits=['test'])
