"""ETRIS on MobileCLIP-S2, a FastViT of strides 4, 8, 16, 32."""

_base_ = './etris.py'

model = dict(
    # A tag of open_clip's; a file will do, too.
    dual_encoder=dict(arch='MobileCLIP-S2', clip_checkpoint='datacompdr'),
    backbone=dict(type='CLIPTimmConvNet'),
)
