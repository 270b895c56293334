"""RefSegRS, from its own files (docs/data.md): aerial images, masks and a text file of phrases for each split."""

_base_ = './refcoco.py'

data_root = 'data/RefSegRS/'

reader = dict(_delete_=True, type='RefSegRSDataset', data_root=data_root)
train_dataloader = dict(dataset=dict(split='train', text_mode='random', pipeline=_base_.train_pipeline, **reader))
tested = dict(text_mode='original', test_mode=True, pipeline=_base_.test_pipeline, **reader)
val_dataloader = dict(dataset=dict(split='val', **tested))
test_dataloader = dict(dataset=dict(split='test', **tested))
test_cfg = dict(splits=['test'])
