"""ETRIS on a CLIP ViT; ``arch`` and ``clip_checkpoint`` come from the file of one architecture."""

model = dict(
    type='ReferringSegmentor',
    data_preprocessor=dict(type='RefSegDataPreProcessor', size_divisor=32),
    backbone=dict(type='CLIPViT', num_stages=4, out_stages=(2, 3, 4)),
    text_encoder=dict(type='CLIPTextEncoder', num_stages=4, out_stages=(2, 3, 4)),
    # All stages have the same grid; the Bridger still zooms by 1/2, 1, 2, with BatchNorm and ReLU (1.39 M).
    neck=dict(
        type='Bridger',
        stages=(2, 3, 4),
        scales=(0.5, 1, 2),
        zoom_norm=True,
        embed_dims=64,
        num_heads=8,
        ffn_dims=128,
        dropout=0.1,
    ),
    decode_head=dict(
        type='ETRISHead', channels=512, num_heads=8, loss_decode=dict(type='TextToPixelContrastiveLoss'), threshold=0.35
    ),
    test_cfg=dict(mode='whole'),
)
