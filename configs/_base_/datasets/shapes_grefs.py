"""Shapes with sentences that mean nothing, one object or several, in gRefCOCO's layout, which
``make_shapes.py data/shapes_grefs --layout grefcoco`` (tools/dataset_tools) draws."""

_base_ = './shapes.py'

data_root = 'data/shapes_grefs/'
ann_file = 'grefcoco/instances.json'
split_file = 'grefcoco/grefs(unc).json'

# A sample for each sentence, also in training: of one item's sentences none stands for the others.
reader = dict(
    type='GRefCocoDataset',
    data_root=data_root,
    ann_file=ann_file,
    split_file=split_file,
    text_mode='original',
    text_field='raw',
)
train_dataloader = dict(dataset=reader)
val_dataloader = dict(dataset=reader)
test_dataloader = dict(dataset=reader)

val_evaluator = dict(_delete_=True, type='GRefSegMetric')
test_evaluator = val_evaluator
