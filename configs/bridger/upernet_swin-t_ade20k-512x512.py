"""UPerNet on Swin-T with the Bridger between backbone and CLIP's text encoder, ADE20K.

    bash tools/dist_train.sh configs/bridger/upernet_swin-t_ade20k-512x512.py 4

No row of the paper. Here: not run.
"""

_base_ = [
    '../_base_/models/upernet_swin-t.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/bridger_adamw_160k.py',
    '../_base_/semseg_runtime.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='BridgedBackbone',
        backbone=_base_.model.backbone,
        class_text=dict(
            arch='ViT-B-16-quickgelu',
            clip_checkpoint='pretrained/ViT-B-16.pt',
            vocabulary=dict(classes='ade20k', templates='vild'),
        ),
    )
)
