"""Keys of DETRIS's checkpoints, and ours."""

from __future__ import annotations

from .key_map import KeyMap, Row
from .shared_keys import ALIGNMENT_ROWS, FUSION_ROWS, LEVEL_NUMBERS, LEVEL_ROWS, PROJECTOR_ROWS

ALIGNER, ADAPTER = 'aligner', 'adapter'
"""Names of the two tuning methods in ``tuning`` of image and text encoder."""

DETRIS_UNUSED_PARTS = ('txt_backbone.visual.', 'dinov2.mask_token')
"""What keys begin with that nothing computes with: CLIP's image tower, and DINOv2's token of pre-training."""

_UNITS = (
    ('dense_branch1', 'first'),
    *(
        (f'dense_branch{theirs}.{index}', f'{ours}.{index}')
        for theirs, ours in ((2, 'second'), (3, 'third'))
        for index in (0, 1)
    ),
)


def _dense_rows(published: str, ours: str) -> tuple[Row, ...]:
    """A dense adapter, but for what reads words."""
    return (
        *(
            (f'{published}.{theirs}.{part}.{{rest}}', f'{ours}.convs.{unit}.{own}.{{rest}}')
            for theirs, unit in _UNITS
            for part, own in (('conv', 'conv'), ('bn', 'norm'))
        ),
        (f'{published}.D_fc1.{{rest}}', f'{ours}.down.{{rest}}'),
        (f'{published}.D_fc2.{{rest}}', f'{ours}.up.{{rest}}'),
    )


_READER = 'dinov2.blocks.{layer}.adapter'
_OUR_READER = f'backbone.tuning.{ALIGNER}.branches.{{layer}}'

DETRIS_KEYS = KeyMap(
    (
        *_dense_rows(
            'txt_backbone.transformer.resblocks.{layer}.adapter', f'text_encoder.tuning.{ADAPTER}.branches.{{layer}}'
        ),
        ('txt_backbone.{rest}', 'text_encoder.tower.{rest}'),
        *_dense_rows(_READER, _OUR_READER),
        *(
            (f'{_READER}.cross.{theirs}.{{rest}}', f'{_OUR_READER}.words.{ours}.{{rest}}')
            for theirs, ours in (
                ('multihead_attn', 'attention'),
                ('image_proj', 'patches_in'),
                ('text_proj', 'words_in'),
                ('back_proj', 'patches_out'),
            )
        ),
        ('dinov2.{rest}', 'backbone.tower.{rest}'),
        *LEVEL_ROWS,
        *FUSION_ROWS,
        *ALIGNMENT_ROWS,
        *PROJECTOR_ROWS,
    ),
    dict(level=LEVEL_NUMBERS),
)
"""The whole map."""
