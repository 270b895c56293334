"""gRefCOCO, UNC splits, from its own files (docs/data.md): sentences that mean nothing, one object or several."""

_base_ = './refcoco.py'

ann_file = 'grefcoco/instances.json'
split_file = 'grefcoco/grefs(unc).json'

# A sample for each sentence, also in training: of one item's sentences none stands for the others.
reader = dict(type='GRefCocoDataset', ann_file=ann_file, split_file=split_file, text_mode='original', text_field='raw')
train_dataloader = dict(dataset=reader)
val_dataloader = dict(dataset=reader)
test_dataloader = dict(dataset=reader)

val_evaluator = dict(_delete_=True, type='GRefSegMetric')
test_evaluator = val_evaluator
