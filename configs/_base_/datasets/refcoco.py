"""RefCOCO, UNC splits, read from the files that REFER publishes (docs/data.md says which files go where)."""

data_root = '{{$REFER_ROOT:data/refer/}}'  # the environment variable REFER_ROOT names another place
ann_file = 'refcoco/instances.json'
split_file = 'refcoco/refs(unc).p'
input_size = (416, 416)  # height, width
context_length = 17  # tokens, [SOS] and [EOS] among them

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Letterbox', size=input_size),
    dict(type='TokenizeExpression', context_length=context_length),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', keep_last=True),  # an image's sentences follow each other
    dict(type='Letterbox', size=input_size),
    # After the resizing: the prediction is compared with the mask at the image's own size.
    dict(type='LoadAnnotations'),
    dict(type='TokenizeExpression', context_length=context_length),
    dict(type='PackSegInputs'),
]
# For tools/test.py --tta. Several sizes and no flip: "the left one" would be another object in the mirror.
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TokenizeExpression', context_length=context_length),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Letterbox', size=(input_size[0] + more, input_size[1] + more)) for more in (-32, 0, 32)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]

train_dataloader = dict(
    batch_size=16,  # on each of 2 GPUs
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='RefCocoDataset',
        data_root=data_root,
        ann_file=ann_file,
        split_file=split_file,
        data_prefix=dict(img_path='train2014/'),
        split='train',
        text_mode='random',  # one sentence of each object, drawn anew in every epoch
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='RefCocoDataset',
        data_root=data_root,
        ann_file=ann_file,
        split_file=split_file,
        data_prefix=dict(img_path='train2014/'),
        split='val',
        text_mode='original',  # every sentence of every object
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='RefCocoDataset',
        data_root=data_root,
        ann_file=ann_file,
        split_file=split_file,
        data_prefix=dict(img_path='train2014/'),
        split='testA',
        text_mode='original',
        test_mode=True,
        pipeline=test_pipeline,
    ),
)

val_evaluator = dict(type='RefSegMetric', metric=['oIoU', 'mIoU', 'Pr'])
test_evaluator = val_evaluator
test_cfg = dict(type='SplitTestLoop', splits=['testA', 'testB'])
