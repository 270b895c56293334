"""COCO-Stuff 164k, 171 classes."""

_base_ = './semseg.py'

source = dict(type='COCOStuffDataset', data_root='data/coco_stuff164k')

validation = dict(**source, data_prefix=dict(img_path='images/val2017', seg_map_path='annotations/val2017'))
train_dataloader = dict(
    dataset=dict(**source, data_prefix=dict(img_path='images/train2017', seg_map_path='annotations/train2017'))
)
val_dataloader = dict(dataset=validation)
test_dataloader = dict(dataset=validation)
