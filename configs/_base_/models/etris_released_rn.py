"""The released ETRIS code's model on a CLIP ResNet; ``arch`` and ``clip_checkpoint`` come from the config."""

model = dict(
    type='ReferringSegmentor',
    # Padding is not masked in the Bridger, so the sentences' length belongs to the model.
    context_length=17,
    data_preprocessor=dict(type='RefSegDataPreProcessor', size_divisor=32),
    backbone=dict(
        type='CLIPResNet',
        out_stages=(2, 3, 4),
        # The attention pool: no mean among the keys, a random shortcut around it.
        pool_mean_key=False,
        pool_shortcut=True,
        # What "frozen" leaves moving there: positions and BatchNorm statistics.
        tunable_parameters=['attnpool.positional_embedding'],
        norm_eval=False,
    ),
    text_encoder=dict(
        type='CLIPTextEncoder', num_stages=3, out_stages=(1, 2, 3), tunable_parameters=['positional_embedding']
    ),
    neck=dict(
        type='Bridger',
        stages=(2, 3, 4),
        embed_dims=64,
        num_heads=4,
        ffn_dims=128,
        dropout=0.1,
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
