"""ADE20K, 150 classes; label 0 ("other") is ignored."""

_base_ = './semseg.py'

source = dict(type='ADE20KDataset', data_root='data/ade/ADEChallengeData2016')
train_pipeline, test_pipeline = (
    [dict(step, reduce_zero_label=True) if step.type == 'LoadAnnotations' else step for step in pipeline]
    for pipeline in (_base_.train_pipeline, _base_.test_pipeline)
)

validation = dict(
    **source,
    data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
    pipeline=test_pipeline,
)
train_dataloader = dict(
    dataset=dict(
        **source,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(dataset=validation)
test_dataloader = dict(dataset=validation)
