"""A decoding Transformer on the tiny CLIP, Shapes; its result, a poor one, in projects/grounding/README.md.

bash tools/dist_train.sh projects/grounding/configs/grounding_transformer_tiny_shapes.py 2

"""

_base_ = '../../../configs/etris/etris_tiny_shapes.py'

from importlib import import_module

grounding = import_module('projects.grounding.grounding.configs')
custom_imports = grounding.IMPORTS

model = grounding.model_with_boxes(
    _base_.model, dict(type='TransformerBoxHead', channels=64, num_layers=3, num_heads=4, ffn_dims=128, dropout=0)
)
train_dataloader = grounding.BOXES
val_dataloader = grounding.BOXES
test_dataloader = grounding.BOXES

val_evaluator = dict(_delete_=True, type='BoxMetric', prefix='box')
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(save_best='box/Acc@0.5'))
