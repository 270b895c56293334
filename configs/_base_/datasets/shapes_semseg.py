"""Shapes with labels, which ``make_shapes.py data/shapes_semseg --layout semseg`` (tools/dataset_tools) draws."""

data_root = 'data/shapes_semseg/'
input_size = (128, 128)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=input_size, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=input_size, keep_ratio=True),
    # After the resizing: the prediction is compared with the labels at the image's own size.
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=(size, size), keep_ratio=True) for size in (96, 128, 160)],
            [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]

train_dataloader, val_dataloader, test_dataloader = (
    dict(
        batch_size=batch_size,
        # The images are small and the training meant for a CPU, so each process reads its own data.
        num_workers=0,
        # A resumed run repeats the order but not the flips: with semseg.py's `EpochInfiniteSampler` and `SeedSample` it
        # would, and the scores of docs/class_names.md would be those of other flips.
        sampler=dict(type='InfiniteSampler' if split == 'train' else 'DefaultSampler', shuffle=split == 'train'),
        dataset=dict(
            type='ShapesSegDataset',
            data_root=data_root,
            data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'annotations/{split}'),
            pipeline=pipeline,
        ),
    )
    for split, batch_size, pipeline in (
        ('train', 8, train_pipeline),
        ('val', 16, test_pipeline),
        ('testA', 16, test_pipeline),
    )
)

val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
