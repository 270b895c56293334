"""ETRIS on SigLIP ViT-B/16, whose positions are of 384 x 384."""

_base_ = './etris_vit.py'

model = dict(
    # A tag of open_clip's; a file will do, too. Its tokenizer, of 64 tokens, needs transformers (docs/encoders.md).
    dual_encoder=dict(arch='ViT-B-16-SigLIP-384', clip_checkpoint='webli'),
    backbone=dict(type='CLIPTimmViT'),
)
