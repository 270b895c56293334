"""UPerNet on ViT-B/16 with a MultiLevelNeck, with MMSegmentation's settings; num_classes is the data set's."""

_base_ = './encoder_decoder.py'

norm_cfg = dict(type='SyncBN', requires_grad=True)

model = dict(
    # timm's weights in MMSegmentation's keys: tools/model_converters/vit2mmseg.py over there writes them.
    pretrained='pretrained/vit_base_patch16_224.pth',
    backbone=dict(
        type='VisionTransformer',
        img_size=(512, 512),
        patch_size=16,
        embed_dims=768,
        num_layers=12,
        num_heads=12,
        out_indices=(2, 5, 8, 11),
        qkv_bias=True,
        drop_path_rate=0.1,
        final_norm=True,
        norm_cfg=dict(type='LN', eps=1e-6),
    ),
    neck=dict(type='MultiLevelNeck', in_channels=[768, 768, 768, 768], out_channels=768, scales=[4, 2, 1, 0.5]),
    decode_head=dict(
        type='UPerHead',
        in_index=(0, 1, 2, 3),
        in_channels=(768, 768, 768, 768),
        pool_scales=(1, 2, 3, 6),
        channels=512,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type='FCNHead',
        in_index=3,
        in_channels=768,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4),
    ),
)
