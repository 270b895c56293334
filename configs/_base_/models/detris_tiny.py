"""DETRIS in miniature: a DINOv2 of 0.5 M parameters, which nobody has trained, and the text side of the tiny CLIP."""

_base_ = './detris.py'

arch = dict(
    embed_dim=64,
    quick_gelu=True,
    vision_cfg=dict(image_size=128, width=16, head_width=32, layers=[1, 1, 1, 1]),
    text_cfg=dict(context_length=77, vocab_size=49408, width=48, heads=4, layers=4),
)

model = dict(
    data_preprocessor=dict(size_divisor=12),
    dual_encoder=dict(_delete_=True, arch=arch, clip_checkpoint='pretrained/tiny_clip_resnet.safetensors'),
    backbone=dict(
        # Weights for it do not exist, so the whole encoder is trained.
        arch=dict(width=64, depth=8, num_heads=4, num_registers=4, patch_size=12, image_size=96),
        frozen=False,
        stage_ends=(1, 4, 6, 8),
        tuning=dict(aligner=dict(channels=32, layers=(1, 3, 5, 7), word_channels=48, align_dims=32, dropout=0)),
    ),
    text_encoder=dict(tuning=dict(adapter=dict(channels=16, layers=(1, 3)))),
    decode_head=dict(
        channels=32,
        num_heads=4,
        global_alignment=dict(dropout=0, ffn_dims=64),
        # As in etris_tiny.py: first logits near +-1.
        projector=dict(init_cfg=dict(type='Normal', std=0.004, override=dict(name='kernel_projection'))),
    ),
    # Where a cell's value belongs is not what is compared.
    test_cfg=dict(corner_aligned=False),
)
