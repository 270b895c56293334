"""RRSIS-D, from its own files (docs/data.md): aerial images with a sentence each, longer than RefCOCO's."""

_base_ = './refcoco.py'

from importlib import import_module

pipelines = import_module('mmetris.datasets.pipelines')
data_root = 'data/rrsisd/'
ann_file = 'rrsisd/instances.json'
split_file = 'rrsisd/refs(unc).p'
context_length = 22

train_pipeline, test_pipeline, tta_pipeline = pipelines.adapted(_base_, context_length=context_length)

reader = dict(
    type='RRSISDDataset',
    data_root=data_root,
    ann_file=ann_file,
    split_file=split_file,
    data_prefix=dict(img_path='images/rrsisd/JPEGImages/'),
)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline, **reader))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline, **reader))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline, split='test', **reader))
test_cfg = dict(splits=['test'])
