"""Keys of the released ETRIS code's checkpoints, and ours: :data:`KEYS` is the whole map, read in both directions."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

PREFIX = 'module.'  # The released code saves the model inside DistributedDataParallel.
NUM_STAGES = 3  # Of its encoders; a ResNet's first stage is none of them.
FIRST_STAGE = dict(resnet=2, vit=1)  # Our number of what it calls stage 0.

# Published key, ours. Where the published code counts otherwise than we do, a place is named:
#   {stage}  0, 1, 2 of its Bridger; ours are the encoder's out_stages: 2, 3, 4 (ResNet) or 1, 2, 3 (ViT)
#   {after}  0, 1: one less than the stage, for what stands from the second stage on
#   {level}  3, 4, 5 of its decoder; ours are 0, 1, 2
#   {layer}  the same number on both sides
#   {rest}   whatever follows, the same on both sides
# The first line that matches counts.
_INTERACTOR = (
    ('self_attn', 'self_attn'),
    ('multihead_attn', 'cross_attn'),
    ('linear1', 'ffn.0'),
    ('linear2', 'ffn.3'),
    ('norm1', 'self_attn_norm'),
    ('norm2', 'cross_attn_norm'),
    ('norm3', 'ffn_norm'),
)
_GLOBAL_LAYER = (
    ('self_attn', 'self_attention'),
    ('self_attn_norm', 'self_attention_out_norm'),
    ('multihead_attn', 'cross_attention'),
    ('cross_attn_norm', 'cross_attention_out_norm'),
    ('ffn', 'ffn'),
    ('norm1', 'self_attention_norm'),
    ('norm2', 'cross_attention_norm'),
    ('norm3', 'ffn_norm'),
)
_ALIGNMENT = 'decode_head.hierarchical_alignment'
_PIXELS = 'decode_head.projector.pixel_projection'
KEYS: tuple[tuple[str, str], ...] = (
    ('backbone.visual.attnpool.connect.{rest}', 'backbone.pool_shortcut.{rest}'),
    ('backbone.visual.{rest}', 'backbone.tower.{rest}'),
    ('backbone.{rest}', 'text_encoder.tower.{rest}'),
    # Bridger. The zoom layers of a ViT are a convolution (0) and a normalisation (1), those of a ResNet one layer.
    *(
        (f'bridger.{zoom}.{{stage}}{theirs}', f'neck.bridges.{{stage}}.{zoom}{ours}')
        for zoom in ('zoom_in', 'zoom_out')
        for theirs, ours in (
            ('.weight', '.project.weight'),
            ('.0.weight', '.project.weight'),
            ('.1.{rest}', '.norm.0.{rest}'),
        )
    ),
    ('bridger.linear1.{stage}.{rest}', 'neck.bridges.{stage}.words_in.{rest}'),
    ('bridger.linear2.{stage}.{rest}', 'neck.bridges.{stage}.words_out.{rest}'),
    ('bridger.ln_v.{after}.{rest}', 'neck.bridges.{after}.image_norm.{rest}'),
    ('bridger.ln_t.{after}.{rest}', 'neck.bridges.{after}.words_norm.{rest}'),
    *(
        (f'bridger.{theirs}.{{stage}}.{part}.{{rest}}', f'neck.bridges.{{stage}}.{ours}.{our_part}.{{rest}}')
        for theirs, ours in (('fusion_v', 'image_interactor'), ('fusion_t', 'words_interactor'))
        for part, our_part in _INTERACTOR
    ),
    # Hierarchical alignment.
    ('neck.txt_proj.{rest}', 'decode_head.text_projection.{rest}'),
    ('neck.f{level}_proj.0.{rest}', _ALIGNMENT + '.projections.{level}.conv.{rest}'),
    ('neck.f{level}_proj.1.{rest}', _ALIGNMENT + '.projections.{level}.norm.{rest}'),
    ('neck.fusion{level}.multihead_attn.{rest}', _ALIGNMENT + '.gates.{level}.attention.{rest}'),
    ('neck.aggr.0.{rest}', _ALIGNMENT + '.fuse.conv.{rest}'),
    ('neck.aggr.1.{rest}', _ALIGNMENT + '.fuse.norm.{rest}'),
    ('neck.coordconv.0.conv1.0.{rest}', _ALIGNMENT + '.coord_conv.conv.conv.{rest}'),
    ('neck.coordconv.0.conv1.1.{rest}', _ALIGNMENT + '.coord_conv.conv.norm.{rest}'),
    ('neck.coordconv.1.0.{rest}', _ALIGNMENT + '.refine.conv.{rest}'),
    ('neck.coordconv.1.1.{rest}', _ALIGNMENT + '.refine.norm.{rest}'),
    # Global alignment.
    *(
        (
            f'decoder.layers.{{layer}}.{theirs}.{{rest}}',
            f'decode_head.global_alignment.layers.{{layer}}.{ours}.{{rest}}',
        )
        for theirs, ours in _GLOBAL_LAYER
    ),
    ('decoder.norm.{rest}', 'decode_head.global_alignment.norm.{rest}'),
    # Projector.
    ('proj.vis.1.0.{rest}', _PIXELS + '.1.conv.{rest}'),
    ('proj.vis.1.1.{rest}', _PIXELS + '.1.norm.{rest}'),
    ('proj.vis.3.0.{rest}', _PIXELS + '.3.conv.{rest}'),
    ('proj.vis.3.1.{rest}', _PIXELS + '.3.norm.{rest}'),
    ('proj.vis.4.{rest}', _PIXELS + '.4.{rest}'),
    ('proj.txt.{rest}', 'decode_head.projector.kernel_projection.{rest}'),
)

# Published keys that no module of ours has, and the value they get where a checkpoint did not come from a published
# one: the temperature of CLIP's pre-training, which OpenAI's weights have at its upper bound.
UNUSED: dict[str, float] = {'backbone.logit_scale': math.log(100)}

# Layers that are deconvolutions in the published code. With a 1x1 kernel ours is the convolution that does the same,
# whose weight has its first two axes exchanged.
_DECONVOLUTIONS = re.compile(r'bridger\.(zoom_in\.2|zoom_out\.[01])(\.0)?\.weight|neck\.f5_proj\.0\.weight')


class _Row(NamedTuple):
    """A line of :data:`KEYS` with what matches each side."""

    published: str
    published_pattern: re.Pattern
    ours: str
    our_pattern: re.Pattern


def _pattern(template: str, places: dict[str, str]) -> re.Pattern:
    parts = re.split(r'\{(\w+)\}', template)  # Text and names of places in turn.
    return re.compile(
        ''.join(
            re.escape(part) if index % 2 == 0 else f'(?P<{part}>{places[part]})' for index, part in enumerate(parts)
        )
    )


@lru_cache
def _rows(family: str) -> tuple[_Row, ...]:
    first, common = FIRST_STAGE[family], dict(layer=r'0|[1-9]\d{0,3}', rest='.+')
    published = dict(common, stage='[012]', after='[01]', level='[345]')
    ours = dict(common, stage=f'[{first}-{first + 2}]', after=f'[{first + 1}-{first + 2}]', level='[012]')
    return tuple(_Row(one, _pattern(one, published), other, _pattern(other, ours)) for one, other in KEYS)


def _fill(template: str, match: re.Match, family: str, direction: int) -> str:
    """Put a match into the template of the other side; ``direction`` is 1 towards ours and -1 back."""
    first = FIRST_STAGE[family]
    shifts = dict(stage=first, after=first + 1, level=-3)
    return template.format(
        **{
            place: str(int(value) + direction * shifts[place]) if place in shifts else value
            for place, value in match.groupdict().items()
        }
    )


def ours_name(published: str, family: str) -> str | None:
    """Name in our model of a published key.

    Args:
        published: Key without :data:`PREFIX`.
        family: ``'resnet'`` or ``'vit'``.

    Returns:
        Our key; None if there is no place for it.
    """
    for row in _rows(family):
        if match := row.published_pattern.fullmatch(published):
            return _fill(row.ours, match, family, 1)
    return None


def published_name(ours: str, family: str) -> str | None:
    """Published key of one of our names; the inverse of :func:`ours_name`.

    Args:
        ours: Key in the state dict of our model.
        family: ``'resnet'`` or ``'vit'``, which tells the two forms of a published zoom layer apart.

    Returns:
        The published key without :data:`PREFIX`; None if the published models have no such weight.
    """
    other_form = re.compile(r'bridger\.zoom_(in|out)\.\{stage\}' + (r'\.weight' if family == 'vit' else r'\.[01]\..+'))
    for row in _rows(family):
        if not other_form.fullmatch(row.published) and (match := row.our_pattern.fullmatch(ours)):
            return _fill(row.published, match, family, -1)
    return None


def exchange_layout(published: str, weight: Tensor) -> Tensor:
    """A published key's weight in our layout, or ours in the published one: the same but for 1x1 deconvolutions."""
    if _DECONVOLUTIONS.fullmatch(published) and tuple(weight.shape[2:]) == (1, 1):
        return weight.transpose(0, 1).contiguous()
    return weight
