"""Pascal Context, 59 classes; label 0 (background) is ignored."""

_base_ = './semseg.py'

crop_size = (480, 480)
scale = (520, 520)
source = dict(
    type='PascalContextDataset59',
    data_root='data/VOCdevkit/VOC2010/',
    data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClassContext'),
)

changes = dict(
    LoadAnnotations=dict(reduce_zero_label=True),
    RandomResize=dict(scale=scale),
    RandomCrop=dict(crop_size=crop_size),
    Resize=dict(scale=scale),
)
train_pipeline, test_pipeline = (
    [dict(step, **changes.get(step.type, {})) for step in pipeline]
    for pipeline in (_base_.train_pipeline, _base_.test_pipeline)
)

validation = dict(**source, ann_file='ImageSets/SegmentationContext/val.txt', pipeline=test_pipeline)
train_dataloader = dict(
    dataset=dict(**source, ann_file='ImageSets/SegmentationContext/train.txt', pipeline=train_pipeline)
)
val_dataloader = dict(dataset=validation)
test_dataloader = dict(dataset=validation)
