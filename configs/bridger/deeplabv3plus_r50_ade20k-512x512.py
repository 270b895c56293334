"""DeepLabV3+ on ResNet-50 with the Bridger between backbone and CLIP's text encoder, ADE20K.

    bash tools/dist_train.sh configs/bridger/deeplabv3plus_r50_ade20k-512x512.py 4

No row of the paper. Here: not run.
"""

_base_ = [
    '../_base_/models/deeplabv3plus_r50.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/bridger_sgd_80k.py',
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
        # All strides of a dilated ResNet are 8; the Bridger works on half of that grid.
        bridger=dict(scales=(0.5, 0.5, 0.5)),
    )
)
