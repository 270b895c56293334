"""RefCOCO+, UNC splits: as RefCOCO, but its sentences avoid words of absolute place."""

_base_ = './refcoco.py'

ann_file = 'refcoco+/instances.json'
split_file = 'refcoco+/refs(unc).p'

train_dataloader = dict(dataset=dict(ann_file=ann_file, split_file=split_file))
val_dataloader = dict(dataset=dict(ann_file=ann_file, split_file=split_file))
test_dataloader = dict(dataset=dict(ann_file=ann_file, split_file=split_file))
