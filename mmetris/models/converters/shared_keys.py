"""Rows of key maps that several published codes have in common: ETRIS's was written on top of CRIS's."""

from __future__ import annotations

import math
import re

from torch import Tensor

from .key_map import Numbers, Row

PREFIX = 'module.'
"""What stands before each key: the codes save the model inside DistributedDataParallel."""

ETRIS_CODE = 'the released ETRIS code'
CRIS_CODE = "CRIS's code"
DETRIS_CODE = "DETRIS's code"

PUBLISHED_PARTS: dict[str, tuple[str, str]] = {
    'bridger.': (ETRIS_CODE, 'tools/model_converters/etris_to_mmetris.py'),
    'neck.f1_v_proj.': (CRIS_CODE, 'tools/model_converters/cris_to_mmetris.py'),
    'dinov2.': (DETRIS_CODE, 'tools/model_converters/detris_to_mmetris.py'),
}
"""What only keys of one code's checkpoints begin with: the code, its converter."""

CLIP_ROWS: tuple[Row, ...] = (
    ('backbone.visual.attnpool.connect.{rest}', 'backbone.pool_shortcut.{rest}'),
    ('backbone.visual.{rest}', 'backbone.tower.{rest}'),
    ('backbone.{rest}', 'text_encoder.tower.{rest}'),
)
"""A CLIP model, but for its temperature."""

TEMPERATURE = math.log(100)
"""CLIP's ``logit_scale`` of pre-training, which no module of ours has; OpenAI's weights have it at its upper bound."""

CLIP_UNUSED: dict[str, float] = {'backbone.logit_scale': TEMPERATURE}
"""What of a CLIP under ``backbone`` no module of ours has."""


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

LEVEL_NUMBERS = Numbers(range(3, 6), range(3))
"""The maps, which ETRIS and DETRIS number as a feature pyramid does."""

LEVEL_ROWS: tuple[Row, ...] = (
    ('neck.txt_proj.{rest}', 'decode_head.text_projection.{rest}'),
    *unit_rows('neck.f{level}_proj', _FUSION + '.projections.{level}'),
    ('neck.fusion{level}.multihead_attn.{rest}', _FUSION + '.gates.{level}.attention.{rest}'),
)
"""What each map goes through before they are fused."""

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

# Layers that are deconvolutions in the published codes. With a 1x1 kernel ours is the convolution that does the same,
# whose weight has its first two axes exchanged.
_DECONVOLUTIONS = re.compile(r'bridger\.(zoom_in\.2|zoom_out\.[01])(\.0)?\.weight|neck\.f5_proj\.0\.weight')


def exchange_layout(published: str, weight: Tensor) -> Tensor:
    """A weight of ETRIS or DETRIS in our layout, or ours in the published one: the same but for 1x1 deconvolutions.

    Args:
        published: Its published key.
        weight: The weight, in either layout.
    """
    if _DECONVOLUTIONS.fullmatch(published) and tuple(weight.shape[2:]) == (1, 1):
        return weight.transpose(0, 1).contiguous()
    return weight
