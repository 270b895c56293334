"""RefCOCOg (G-Ref), UMD splits: longer sentences; no image is in two splits."""

_base_ = './refcoco.py'

ann_file = 'refcocog/instances.json'
split_file = 'refcocog/refs(umd).p'
context_length = 22

train_pipeline, test_pipeline, tta_pipeline = (
    [dict(step, context_length=context_length) if step.type == 'TokenizeExpression' else step for step in pipeline]
    for pipeline in (_base_.train_pipeline, _base_.test_pipeline, _base_.tta_pipeline)
)

train_dataloader = dict(dataset=dict(ann_file=ann_file, split_file=split_file, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(ann_file=ann_file, split_file=split_file, pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(ann_file=ann_file, split_file=split_file, split='test', pipeline=test_pipeline))
test_cfg = dict(splits=['test'])
