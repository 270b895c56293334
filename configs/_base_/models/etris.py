"""ETRIS as the paper has it; ``dual_encoder`` and the kind of ``backbone`` come from the file of one architecture."""

model = dict(
    type='ReferringSegmentor',
    data_preprocessor=dict(type='RefSegDataPreProcessor', size_divisor=32),
    # Of 4 stages the last three take part, and each has a Bridger: the defaults of encoders and neck.
    text_encoder=dict(type='CLIPTextEncoder'),
    neck=dict(type='Bridger', embed_dims=64, num_heads=8, ffn_dims=128, dropout=0.1),
    decode_head=dict(
        type='ETRISHead', channels=512, num_heads=8, loss_decode=dict(type='TextToPixelContrastiveLoss'), threshold=0.35
    ),
    test_cfg=dict(mode='whole'),
)
