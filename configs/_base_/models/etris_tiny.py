"""ETRIS on the tiny CLIP of pretrained/, small enough to train on a CPU (docs/shapes.md)."""

_base_ = './etris_rn.py'

arch = dict(
    embed_dim=64,
    quick_gelu=True,
    vision_cfg=dict(image_size=128, width=16, head_width=32, layers=[1, 1, 1, 1]),
    text_cfg=dict(context_length=77, vocab_size=49408, width=48, heads=4, layers=4),
)
clip_checkpoint = 'pretrained/tiny_clip_resnet.safetensors'

model = dict(
    dual_encoder=dict(arch=arch, clip_checkpoint=clip_checkpoint),
    # No dropout: a short training learns no sentence by heart, and on a CPU it costs a tenth of the time.
    neck=dict(embed_dims=32, num_heads=4, dropout=0),
    decode_head=dict(
        channels=64,
        num_heads=4,
        global_alignment=dict(dropout=0, ffn_dims=128),
        # CLIP's sentence features are long (norm 12 here), so that PyTorch's initial weights of this layer start the
        # logits near +-14 and cost the demo most of its few steps. These start them near +-1.
        projector=dict(init_cfg=dict(type='Normal', std=0.004, override=dict(name='kernel_projection'))),
    ),
)
