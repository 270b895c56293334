"""ETRIS on open_clip's ConvNeXt-Base of 320 x 320."""

_base_ = './etris.py'

model = dict(
    # A tag of open_clip's; a file will do, too.
    dual_encoder=dict(arch='convnext_base_w_320', clip_checkpoint='laion_aesthetic_s13b_b82k_augreg'),
    backbone=dict(type='CLIPTimmConvNet'),
)
