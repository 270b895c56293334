"""The released ETRIS code's model on a CLIP ViT; ``dual_encoder`` (at the training size) comes from the config."""

_base_ = './etris_released.py'

model = dict(
    data_preprocessor=dict(size_divisor=16),
    backbone=dict(type='CLIPViT', num_stages=3, tunable_parameters=['positional_embedding']),
    # The Interactor is one cross-attention whose result multiplies the query.
    neck=dict(scales=(1, 1, 1), zoom_norm=True, self_attention=False, ffn_dims=None, combine='multiply', dropout=0.0),
)
