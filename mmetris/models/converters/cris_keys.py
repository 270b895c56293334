"""Keys of CRIS's checkpoints, and ours."""

from __future__ import annotations

from .key_map import KeyMap
from .shared_keys import ALIGNMENT_ROWS, CLIP_ROWS, FUSION_ROWS, PROJECTOR_ROWS, unit_rows

_FPN = 'decode_head.hierarchical_alignment'

CRIS_KEYS = KeyMap(
    (
        *CLIP_ROWS,
        # The published code numbers the steps of its FPN, from the coarsest map on; ours are numbered as the maps are.
        ('neck.txt_proj.0.{rest}', f'{_FPN}.text_projection.linear.{{rest}}'),
        ('neck.txt_proj.1.{rest}', f'{_FPN}.text_projection.norm.{{rest}}'),
        ('neck.norm_layer.0.{rest}', f'{_FPN}.gate_norm.{{rest}}'),
        *unit_rows('neck.f1_v_proj', f'{_FPN}.projections.2'),
        *unit_rows('neck.f2_v_proj', f'{_FPN}.projections.1'),
        *unit_rows('neck.f3_v_proj', f'{_FPN}.projections.0'),
        *unit_rows('neck.f2_cat', f'{_FPN}.merges.1'),
        *unit_rows('neck.f3_cat', f'{_FPN}.merges.0'),
        *unit_rows('neck.f4_proj5', f'{_FPN}.outputs.2'),
        *unit_rows('neck.f4_proj4', f'{_FPN}.outputs.1'),
        *unit_rows('neck.f4_proj3', f'{_FPN}.outputs.0'),
        *FUSION_ROWS,
        *ALIGNMENT_ROWS,
        *PROJECTOR_ROWS,
    )
)
"""The whole map; all models are ResNets."""
