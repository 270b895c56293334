"""Aligners that read words, text adapters and Bridgers both ways between DINOv2 ViT-L/14 and CLIP's text encoder."""

_base_ = './detris_large.py'

model = dict(
    # Twice the patch, since the Bridger halves the grid.
    data_preprocessor=dict(size_divisor=2 * 14),
    # Blocks of both encoders in four stages, of which the last three have a Bridger.
    backbone=dict(stage_ends=(1, 9, 17, 24), tuning=dict(aligner=dict(channels=384, layers=tuple(range(1, 24))))),
    text_encoder=dict(num_stages=4, tuning=dict(adapter=dict(channels=384, layers=tuple(range(1, 12))))),
    # The Bridger of ETRIS on a ViT.
    neck=dict(
        type='TextFirstBridger',
        embed_dims=64,
        num_heads=8,
        ffn_dims=128,
        dropout=0.1,
        scales=(0.5, 1, 2),
        zoom_norm=True,
    ),
    # Half the patch: logits of stride 1.75 and not 3.5.
    decode_head=dict(stride=7),
    # A cell's value belongs where the loss takes its target from.
    test_cfg=dict(corner_aligned=False),
)
