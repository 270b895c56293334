"""DETRIS; ``backbone`` is completed by the file of one size."""

# Mean and std of CLIP's images; those of DINOv2 itself would be ImageNet's.
clip_mean = [122.7709383, 116.7460125, 104.09373615]
clip_std = [68.5005327, 66.6321579, 70.32316305]

model = dict(
    type='ReferringSegmentor',
    # The text adapters look across padding, so the sentences' length belongs to the model.
    context_length=17,
    data_preprocessor=dict(type='RefSegDataPreProcessor', size_divisor=14, mean=clip_mean, std=clip_std),
    # Of the text side; CLIP's image encoder is not used.
    dual_encoder=dict(arch='ViT-B-16-quickgelu', clip_checkpoint='pretrained/ViT-B-16.pt'),
    backbone=dict(type='DINOv2ViT', tuning=dict(aligner=dict(type='DenseAligner', channels=128))),
    # Cut as often as there are maps; nothing is read between its stages.
    text_encoder=dict(
        type='CLIPTextEncoder', num_stages=3, tuning=dict(adapter=dict(type='DenseTextAdapter', channels=64))
    ),
    neck=dict(type='TextFirst'),
    decode_head=dict(
        type='ETRISHead',
        channels=512,
        num_heads=8,
        text_projection=True,
        hierarchical_alignment=dict(residual=True),
        loss_decode=dict(type='TextToPixelContrastiveLoss'),
        threshold=0.35,
    ),
    test_cfg=dict(mode='whole', corner_aligned=True),
)
