"""The released ETRIS code's model on a CLIP ViT; ``arch`` (at the training size) comes from the config."""

model = dict(
    type='ReferringSegmentor',
    # Padding is not masked in the Bridger, so the sentences' length belongs to the model.
    context_length=17,
    data_preprocessor=dict(type='RefSegDataPreProcessor', size_divisor=16),
    # Three groups of blocks, all used: Bridgers after blocks 4, 8 and 12. The positions are tuned.
    backbone=dict(type='CLIPViT', num_stages=3, out_stages=(1, 2, 3), tunable_parameters=['positional_embedding']),
    text_encoder=dict(
        type='CLIPTextEncoder', num_stages=3, out_stages=(1, 2, 3), tunable_parameters=['positional_embedding']
    ),
    # The Interactor is one cross-attention whose result multiplies the query.
    neck=dict(
        type='Bridger',
        stages=(1, 2, 3),
        scales=(1, 1, 1),
        zoom_norm=True,
        embed_dims=64,
        num_heads=8,
        self_attention=False,
        ffn_dims=None,
        combine='multiply',
        dropout=0.0,
        memory='sum',
        cross_inputs='input',
        mask_padding=False,
        init_cfg=[
            dict(type='Normal', layer='Linear', std=0.02),
            dict(type='Kaiming', layer=['Conv2d', 'ConvTranspose2d'], mode='fan_out', nonlinearity='relu'),
        ],
    ),
    decode_head=dict(
        type='ETRISHead',
        channels=512,
        num_heads=8,
        text_projection=True,
        loss_decode=dict(type='TextToPixelContrastiveLoss'),
        threshold=0.35,
    ),
    test_cfg=dict(mode='whole', corner_aligned=True),
)
