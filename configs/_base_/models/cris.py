"""CRIS on a CLIP ResNet; ``dual_encoder`` comes from the config."""

_base_ = './etris_rn.py'

model = dict(
    # Longer sentences are cut, as in training, which tunes the positions of these tokens only.
    context_length=17,
    # All of CLIP is tuned, and its attention pool is another: no mean among the keys, a random shortcut around it.
    backbone=dict(frozen=False, pool_mean_key=False, pool_shortcut=True),
    # Nothing is read between its blocks; three stages, as many as the image encoder gives maps.
    text_encoder=dict(frozen=False, num_stages=3),
    neck=dict(_delete_=True, type='Bridger', stages=()),
    decode_head=dict(
        hierarchical_alignment=dict(type='CRISFPN'),
        # The FPN projects the sentence itself.
        text_projection=False,
        global_alignment=dict(ffn_dims=2048),
    ),
    test_cfg=dict(corner_aligned=True),
)
