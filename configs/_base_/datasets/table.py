"""Your own images and masks with a table of sentences (docs/data.md, "Folders and a table")."""

_base_ = './refcoco.py'

data_root = '{{$TABLE_ROOT:data/mine/}}'  # the environment variable TABLE_ROOT names another place
ann_file = 'sentences.csv'

reader = dict(
    _delete_=True,
    type='TableRefDataset',
    data_root=data_root,
    ann_file=ann_file,
    data_prefix=dict(img_path='images/', seg_map_path='masks/'),
)
train_dataloader = dict(dataset=dict(split='train', text_mode='random', pipeline=_base_.train_pipeline, **reader))
tested = dict(text_mode='original', test_mode=True, pipeline=_base_.test_pipeline, **reader)
val_dataloader = dict(dataset=dict(split='val', **tested))
test_dataloader = dict(dataset=dict(split='val', **tested))
test_cfg = dict(splits=['val'])

# A table may hold sentences that mean nothing in their image.
val_evaluator = dict(_delete_=True, type='GRefSegMetric')
test_evaluator = val_evaluator
