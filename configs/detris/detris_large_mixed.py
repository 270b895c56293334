"""DETRIS, DINOv2 ViT-L/14 and the text side of CLIP ViT-B/16, on RefCOCO, RefCOCO+ and RefCOCOg (UMD) together.

    bash tools/dist_train.sh configs/detris/detris_large_mixed.py 2 --amp

DETRIS's paper (no hardware told here), one model for all: mIoU 81.00 / 81.90 / 79.00 on val / testA / testB of RefCOCO.
Here: not run. Tunable: adapters 33.33 M, decoder 23.20 M.
"""

_base_ = './detris_large_refcoco.py'

model = dict(
    backbone=dict(stage_ends=(1, 9, 17, 24), tuning=dict(aligner=dict(channels=384, layers=tuple(range(1, 24))))),
    text_encoder=dict(tuning=dict(adapter=dict(channels=384, layers=tuple(range(1, 12))))),
)

# Images of any val or test split of the three are left out. The best epoch is picked, and tests are, on RefCOCO; for
# the others let --cfg-options name their ann_file and split_file.
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
