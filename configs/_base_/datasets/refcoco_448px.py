"""RefCOCO at 448 x 448: 32 x 32 patches of 14 pixels."""

_base_ = './refcoco.py'

from importlib import import_module

pipelines = import_module('mmetris.datasets.pipelines')
input_size = (32 * 14, 32 * 14)

train_pipeline, test_pipeline, tta_pipeline = pipelines.adapted(_base_, input_size=input_size, tta_step=2 * 14)

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
