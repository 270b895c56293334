"""RefCOCO, RefCOCO+ and RefCOCOg (UMD) together to train on, at 448 x 448; validated and tested on RefCOCO.

Images of any val or test split of the three are left out. To test on the others, let --cfg-options name their ann_file
and split_file.
"""

_base_ = './refcoco_448px.py'

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='MixedRefDataset',
        datasets=[
            dict(_base_.train_dataloader.dataset, ann_file=f'{folder}/instances.json', split_file=f'{folder}/{split}')
            for folder, split in (
                ('refcoco', 'refs(unc).p'),
                ('refcoco+', 'refs(unc).p'),
                ('refcocog', 'refs(umd).p'),
            )
        ],
    )
)
