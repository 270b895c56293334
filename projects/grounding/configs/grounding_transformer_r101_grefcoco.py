"""Sentences of no, one and several objects: a box for each; CLIP ResNet-101, gRefCOCO.

    bash tools/dist_train.sh projects/grounding/configs/grounding_transformer_r101_grefcoco.py 2

Not run here.
"""

_base_ = '../../../configs/etris/etris_r101_grefcoco.py'

from importlib import import_module

grounding = import_module('projects.grounding.grounding.configs')
custom_imports = grounding.IMPORTS

model = grounding.model_with_boxes(
    _base_.model, dict(type='TransformerBoxHead', num_queries=20), test_cfg=dict(box_threshold=0.5)
)
train_dataloader = grounding.BOXES
val_dataloader = grounding.BOXES
test_dataloader = grounding.BOXES

val_evaluator = dict(_delete_=True, type='BoxMetric', several=True, prefix='box')
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(save_best='box/F1'))
