"""Rows of key maps that several published codes have in common: ETRIS's was written on top of CRIS's."""

from __future__ import annotations

import math

from .key_map import Row

PREFIX = 'module.'
"""What stands before each key: the codes save the model inside DistributedDataParallel."""

CLIP_ROWS: tuple[Row, ...] = (
    ('backbone.visual.attnpool.connect.{rest}', 'backbone.pool_shortcut.{rest}'),
    ('backbone.visual.{rest}', 'backbone.tower.{rest}'),
    ('backbone.{rest}', 'text_encoder.tower.{rest}'),
)
"""A CLIP model, but for its temperature."""

CLIP_UNUSED: dict[str, float] = {'backbone.logit_scale': math.log(100)}
"""The temperature of CLIP's pre-training, which no module of ours has; OpenAI's weights have it at its upper bound."""


def unit_rows(published: str, ours: str) -> tuple[Row, ...]:
    """A convolution with its normalisation.

    Args:
        published: Name of the published unit, in which the two are 0 and 1.
        ours: Name of our :class:`~mmetris.models.layers.conv_norm.ConvNormReLU`.
    """
    return (
        (f'{published}.0.{{rest}}', f'{ours}.conv.{{rest}}'),
        (f'{published}.1.{{rest}}', f'{ours}.norm.{{rest}}'),
    )


_FUSION = 'decode_head.hierarchical_alignment'
_PIXELS = 'decode_head.projector.pixel_projection'
_LAYER = (
    ('self_attn', 'self_attention'),
    ('self_attn_norm', 'self_attention_out_norm'),
    ('multihead_attn', 'cross_attention'),
    ('cross_attn_norm', 'cross_attention_out_norm'),
    ('ffn', 'ffn'),
    ('norm1', 'self_attention_norm'),
    ('norm2', 'cross_attention_norm'),
    ('norm3', 'ffn_norm'),
)

FUSION_ROWS: tuple[Row, ...] = (
    *unit_rows('neck.aggr', f'{_FUSION}.fuse'),
    *unit_rows('neck.coordconv.0.conv1', f'{_FUSION}.coord_conv.conv'),
    *unit_rows('neck.coordconv.1', f'{_FUSION}.refine'),
)
"""The last layers of what fuses the maps."""

ALIGNMENT_ROWS: tuple[Row, ...] = (
    *(
        (
            f'decoder.layers.{{layer}}.{theirs}.{{rest}}',
            f'decode_head.global_alignment.layers.{{layer}}.{ours}.{{rest}}',
        )
        for theirs, ours in _LAYER
    ),
    ('decoder.norm.{rest}', 'decode_head.global_alignment.norm.{rest}'),
)
"""Global alignment."""

PROJECTOR_ROWS: tuple[Row, ...] = (
    *unit_rows('proj.vis.1', f'{_PIXELS}.1'),
    *unit_rows('proj.vis.3', f'{_PIXELS}.3'),
    ('proj.vis.4.{rest}', f'{_PIXELS}.4.{{rest}}'),
    ('proj.txt.{rest}', 'decode_head.projector.kernel_projection.{rest}'),
)
"""Projector."""
