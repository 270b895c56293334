"""Class names and sentences on a frozen CLIP ViT-B/16, as SCLIP has it; the config of a data set adds the classes."""

window, stride = (224, 224), (112, 112)

model = dict(
    type='TrainingFreeSegmentor',
    data_preprocessor=dict(type='RefSegDataPreProcessor', size_divisor=16),
    dual_encoder=dict(arch='ViT-B-16-quickgelu', clip_checkpoint='pretrained/ViT-B-16.pt'),
    backbone=dict(type='DenseCLIPViT', attention='sclip'),
    text_encoder=dict(type='ClassVectors'),
    decode_head=dict(type='CosineHead', logit_scale=40, threshold=0.5),
    vocabulary=dict(templates='imagenet'),
    test_cfg=dict(mode='slide', crop_size=window, stride=stride),
)
