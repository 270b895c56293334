"""Keys of the released ETRIS code's checkpoints, and ours."""

from __future__ import annotations

from functools import lru_cache

from .key_map import KeyMap, Numbers, Row
from .shared_keys import ALIGNMENT_ROWS, CLIP_ROWS, FUSION_ROWS, LEVEL_NUMBERS, LEVEL_ROWS, PROJECTOR_ROWS

NUM_STAGES = 3  # Of its encoders; a ResNet's first stage is none of them.
FIRST_STAGE = dict(resnet=2, vit=1)  # Our number of what it calls stage 0.

_INTERACTOR = (
    ('self_attn', 'self_attn'),
    ('multihead_attn', 'cross_attn'),
    ('linear1', 'ffn.0'),
    ('linear2', 'ffn.3'),
    ('norm1', 'self_attn_norm'),
    ('norm2', 'cross_attn_norm'),
    ('norm3', 'ffn_norm'),
)
# The zoom layers of a ViT are a convolution (0) and a normalisation (1), those of a ResNet one layer.
_ZOOM = dict(
    resnet=(('.weight', '.project.weight'),), vit=(('.0.weight', '.project.weight'), ('.1.{rest}', '.norm.0.{rest}'))
)


def _rows(family: str) -> tuple[Row, ...]:
    return (
        *CLIP_ROWS,
        # Bridger.
        *(
            (f'bridger.{zoom}.{{stage}}{theirs}', f'neck.bridges.{{stage}}.{zoom}{ours}')
            for zoom in ('zoom_in', 'zoom_out')
            for theirs, ours in _ZOOM[family]
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
        *LEVEL_ROWS,
        *FUSION_ROWS,
        *ALIGNMENT_ROWS,
        *PROJECTOR_ROWS,
    )


@lru_cache
def etris_keys(family: str) -> KeyMap:
    """The whole map.

    Args:
        family: ``'resnet'`` or ``'vit'``.
    """
    first = FIRST_STAGE[family]
    numbers = dict(
        stage=Numbers(range(NUM_STAGES), range(first, first + NUM_STAGES)),
        # What stands from the second stage on is counted from there.
        after=Numbers(range(NUM_STAGES - 1), range(first + 1, first + NUM_STAGES)),
        level=LEVEL_NUMBERS,
    )
    return KeyMap(_rows(family), numbers)
