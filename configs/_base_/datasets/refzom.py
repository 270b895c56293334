"""Ref-ZOM, from its own files (docs/data.md): sentences that mean no object, one, or many."""

_base_ = './grefcoco.py'

ann_file = 'ref-zom/instances.json'
split_file = 'ref-zom/refs(final).p'

reader = dict(
    type='RefZomDataset',
    ann_file=ann_file,
    split_file=split_file,
    data_prefix=dict(img_path='train2014/', val_img_path='val2014/'),
)
train_dataloader = dict(dataset=reader)
val_dataloader = dict(dataset=reader)
test_dataloader = dict(dataset=dict(split='test', **reader))
test_cfg = dict(splits=['test'])
