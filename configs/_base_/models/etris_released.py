"""What the released ETRIS code does otherwise than the paper, on either kind of CLIP."""

_base_ = './etris.py'

model = dict(
    # Padding is not masked in the Bridger, so the sentences' length belongs to the model.
    context_length=17,
    # Three groups of blocks, all used: Bridgers after blocks 4, 8 and 12. The positions are tuned.
    text_encoder=dict(num_stages=3, tunable_parameters=['positional_embedding']),
    neck=dict(
        memory='sum',
        cross_inputs='input',
        mask_padding=False,
        init_cfg=[
            dict(type='Normal', layer='Linear', std=0.02),
            dict(type='Kaiming', layer=['Conv2d', 'ConvTranspose2d'], mode='fan_out', nonlinearity='relu'),
        ],
    ),
    decode_head=dict(text_projection=True),
    test_cfg=dict(corner_aligned=True),
)
