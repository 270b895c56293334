"""The released ETRIS code's model on a CLIP ResNet; ``dual_encoder`` comes from the config."""

_base_ = './etris_released.py'

model = dict(
    backbone=dict(
        type='CLIPResNet',
        # The attention pool: no mean among the keys, a random shortcut around it.
        pool_mean_key=False,
        pool_shortcut=True,
        # What "frozen" leaves moving there: positions and BatchNorm statistics.
        tunable_parameters=['attnpool.positional_embedding'],
        norm_eval=False,
    ),
    neck=dict(num_heads=4),
)
