"""RefCOCOg (G-Ref), Google splits: train and val only. They SHARE IMAGES: the val score is none on new images."""

_base_ = './refcocog_umd.py'

split_file = 'refcocog/refs(google).p'

train_dataloader = dict(dataset=dict(split_file=split_file))
val_dataloader = dict(dataset=dict(split_file=split_file))
test_dataloader = dict(dataset=dict(split_file=split_file, split='val'))
test_cfg = dict(splits=['val'])
