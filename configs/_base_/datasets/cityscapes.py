"""Cityscapes, 19 classes, 2 images on each of 4 GPUs."""

_base_ = './semseg.py'

crop_size = (512, 1024)
scale = (2048, 1024)
source = dict(type='CityscapesDataset', data_root='data/cityscapes/')

changes = dict(RandomResize=dict(scale=scale), RandomCrop=dict(crop_size=crop_size), Resize=dict(scale=scale))
train_pipeline, test_pipeline = (
    [dict(step, **changes.get(step.type, {})) for step in pipeline]
    for pipeline in (_base_.train_pipeline, _base_.test_pipeline)
)

validation = dict(
    **source, data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'), pipeline=test_pipeline
)
train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    dataset=dict(
        **source, data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'), pipeline=train_pipeline
    ),
)
val_dataloader = dict(dataset=validation)
test_dataloader = dict(dataset=validation)
