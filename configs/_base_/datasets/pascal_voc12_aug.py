"""Pascal VOC 2012 with the additional training labels of SBD, 20 classes and a background."""

_base_ = './semseg.py'

data_root = 'data/VOCdevkit/VOC2012'
train_pipeline = [
    *_base_.train_pipeline[:-1],
    dict(type='Pad', size=_base_.crop_size),
    _base_.train_pipeline[-1],
]

train_lists, added_lists, validation = (
    dict(
        type='PascalVOCDataset',
        data_root=data_root,
        data_prefix=dict(img_path='JPEGImages', seg_map_path=labels),
        ann_file=f'ImageSets/Segmentation/{split}.txt',
        pipeline=pipeline,
    )
    for split, labels, pipeline in (
        ('train', 'SegmentationClass', train_pipeline),
        ('aug', 'SegmentationClassAug', train_pipeline),
        ('val', 'SegmentationClass', _base_.test_pipeline),
    )
)
train_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset', datasets=[train_lists, added_lists]))
val_dataloader = dict(dataset=validation)
test_dataloader = dict(dataset=validation)
