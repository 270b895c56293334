"""The published codes whose checkpoints are converted."""

from __future__ import annotations

from . import cris_sizes, etris_sizes
from .cris_keys import CRIS_KEYS
from .etris_keys import etris_keys, exchange_layout
from .etris_sizes import ETRISSizes
from .published_checkpoint import PublishedCode
from .published_sizes import PublishedSizes
from .shared_keys import CLIP_UNUSED

ETRIS: PublishedCode[ETRISSizes] = PublishedCode(
    name=etris_sizes.CODE,
    variant='models of the released variant (configs/etris_released)',
    meta_key='published_etris',
    keys=etris_keys,
    unused=CLIP_UNUSED,
    infer_sizes=etris_sizes.infer_etris_sizes,
    model_cfg=etris_sizes.etris_model_cfg,
    any_heads=dict(bridger_heads=1, head_heads=1),
    exchange_layout=exchange_layout,
)
"""ETRIS (ICCV 2023), https://github.com/kkakkkka/ETRIS."""

CRIS: PublishedCode[PublishedSizes] = PublishedCode(
    name=cris_sizes.CODE,
    variant='models of configs/cris',
    meta_key='published_cris',
    keys=lambda family: CRIS_KEYS,
    unused=CLIP_UNUSED,
    infer_sizes=cris_sizes.infer_cris_sizes,
    model_cfg=cris_sizes.cris_model_cfg,
    any_heads=dict(head_heads=1),
)
"""CRIS (CVPR 2022), https://github.com/DerrickWang005/CRIS.pytorch."""
