"""Shapes: drawn images in RefCOCO's layout, made by ``python tools/dataset_tools/make_shapes.py data/shapes``."""

_base_ = './refcoco.py'

from importlib import import_module

pipelines = import_module('mmetris.datasets.pipelines')
data_root = 'data/shapes/'
input_size = (128, 128)

train_pipeline, test_pipeline, tta_pipeline = pipelines.adapted(_base_, input_size=input_size)

# The images are small and the training meant for a CPU, so each process reads its own data.
loading = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(**loading, batch_size=16, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(**loading, batch_size=32, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = dict(**loading, batch_size=32, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_cfg = dict(splits=['val', 'testA', 'testB'])
