"""RefCLEF, UNC splits, from the files that REFER publishes (docs/data.md), on images of IAPR TC-12."""

_base_ = './refcoco.py'

ann_file = 'refclef/instances.json'
split_file = 'refclef/refs(unc).p'

reader = dict(
    type='RefClefDataset',
    ann_file=ann_file,
    split_file=split_file,
    data_prefix=dict(img_path='images/saiapr_tc-12/'),
)
train_dataloader = dict(dataset=reader)
val_dataloader = dict(dataset=reader)
test_dataloader = dict(dataset=reader)
test_cfg = dict(splits=['testA', 'testB', 'testC'])
