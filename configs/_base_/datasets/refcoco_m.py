"""RefCOCO to train on, and to test on RefCOCO-M (docs/data.md): its val split with masks that were drawn anew."""

_base_ = './refcoco.py'

test_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='RefCocoMDataset',
        data_root=_base_.data_root,
        split='val',
        text_mode='original',
        test_mode=True,
        pipeline=_base_.test_pipeline,
    )
)
test_cfg = dict(splits=['val'])
