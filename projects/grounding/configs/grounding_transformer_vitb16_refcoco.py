"""Frozen CLIP ViT-B/16 with Bridgers, an FPN, a decoding Transformer; RefCOCO.

    bash tools/dist_train.sh projects/grounding/configs/grounding_transformer_vitb16_refcoco.py 2

Not run here.
"""

_base_ = '../../../configs/etris/etris_vitb16_refcoco.py'

from importlib import import_module

grounding = import_module('projects.grounding.grounding.configs')
custom_imports = grounding.IMPORTS

model = grounding.model_with_boxes(_base_.model, dict(type='TransformerBoxHead'))
train_dataloader = grounding.BOXES
val_dataloader = grounding.BOXES
test_dataloader = grounding.BOXES

val_evaluator = dict(_delete_=True, type='BoxMetric', prefix='box')
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(save_best='box/Acc@0.5'))
