"""Any data set of folders, a folder for each class: <data_root>/train/CLASS/*.jpg and val; MMPretrain's pipelines.

The folder is the one that the environment variable CLASSES_ROOT names, else data/classes.
"""

data_root = '{{$CLASSES_ROOT:data/classes}}'
classes = None  # From the folders' names; else a list, a file or a dict {folder: name}.
image_size = 224  # CLIP's own.

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=image_size, crop_ratio_range=(0.35, 1.0)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
# As CLIP prepares its images.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=image_size, edge='short'),
    dict(type='CenterCrop', crop_size=image_size),
    dict(type='PackInputs'),
]

train_dataloader, val_dataloader, test_dataloader = (
    dict(
        batch_size=batch_size,
        num_workers=4,
        persistent_workers=True,
        sampler=dict(type='DefaultSampler', shuffle=split == 'train'),
        dataset=dict(
            type='ClassFolderDataset',
            data_root=data_root,
            data_prefix=split,
            classes=classes,
            pipeline=pipeline,
        ),
    )
    for split, batch_size, pipeline in (
        ('train', 32, train_pipeline),
        ('val', 64, test_pipeline),
        ('val', 64, test_pipeline),  # The test; few folders of pictures have a split of their own for it.
    )
)

val_evaluator = dict(type='ClassAccuracy')
test_evaluator = val_evaluator
