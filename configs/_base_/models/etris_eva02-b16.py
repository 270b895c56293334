"""ETRIS on EVA-CLIP, EVA02 ViT-B/16."""

_base_ = './etris_vit.py'

model = dict(
    # A tag of open_clip's; a file will do, too.
    dual_encoder=dict(arch='EVA02-B-16', clip_checkpoint='merged2b_s8b_b131k'),
    backbone=dict(type='CLIPTimmViT'),
)
