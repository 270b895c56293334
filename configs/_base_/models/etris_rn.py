"""ETRIS on a CLIP ResNet; ``arch`` and ``clip_checkpoint`` come from the file of one architecture."""

model = dict(
    type='ReferringSegmentor',
    data_preprocessor=dict(type='RefSegDataPreProcessor', size_divisor=32),
    backbone=dict(type='CLIPResNet', out_stages=(2, 3, 4)),
    text_encoder=dict(type='CLIPTextEncoder', out_stages=(2, 3, 4)),
    # Strides 8, 16, 32 are brought to 16.
    neck=dict(type='Bridger', stages=(2, 3, 4), embed_dims=64, num_heads=8, ffn_dims=128, dropout=0.1),
    decode_head=dict(
        type='ETRISHead', channels=512, num_heads=8, loss_decode=dict(type='TextToPixelContrastiveLoss'), threshold=0.35
    ),
    test_cfg=dict(mode='whole'),
)
