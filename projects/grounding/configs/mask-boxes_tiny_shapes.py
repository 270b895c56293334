"""ETRIS on the tiny CLIP, Shapes, scored by the boxes around its masks; a baseline of projects/grounding/README.md.

bash tools/dist_test.sh projects/grounding/configs/mask-boxes_tiny_shapes.py CHECKPOINT 2
"""

_base_ = '../../../configs/etris/etris_tiny_shapes.py'

from importlib import import_module

grounding = import_module('projects.grounding.grounding.configs')
custom_imports = grounding.IMPORTS

train_dataloader = grounding.BOXES
val_dataloader = grounding.BOXES
test_dataloader = grounding.BOXES

val_evaluator = [dict(type='BoxMetric', prefix='box'), dict(type='RefSegMetric', metric=['mIoU', 'Pr'])]
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(save_best='box/mask_Acc@0.5'))
