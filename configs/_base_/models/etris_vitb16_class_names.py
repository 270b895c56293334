"""ETRIS on CLIP ViT-B/16 as a segmentor by class names; the config of a data set adds the vocabulary."""

_base_ = './etris_vitb16.py'

model = dict(
    type='ClassNameSegmentor',
    text_mode='joint',
    text_encoder=dict(type='ClassText'),
    decode_head=dict(
        # CLIP's sentence features are long: PyTorch's initial weights of this layer would start the logits near +-14.
        projector=dict(init_cfg=dict(type='Normal', std=0.004, override=dict(name='kernel_projection'))),
        loss_decode=dict(_delete_=True, type='CrossEntropyLoss', avg_non_ignore=True),
    ),
)
