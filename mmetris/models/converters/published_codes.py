"""The published codes whose checkpoints are converted."""

from __future__ import annotations

from . import cris_sizes, detris_sizes, etris_sizes
from .cris_keys import CRIS_KEYS
from .detris_keys import DETRIS_KEYS, DETRIS_UNUSED_PARTS
from .detris_sizes import DETRISSizes
from .etris_keys import etris_keys
from .etris_sizes import ETRISSizes
from .published_checkpoint import PublishedCode
from .published_sizes import PublishedSizes
from .shared_keys import CLIP_UNUSED, CRIS_CODE, DETRIS_CODE, ETRIS_CODE, TEMPERATURE, exchange_layout

ETRIS: PublishedCode[ETRISSizes] = PublishedCode(
    name=ETRIS_CODE,
    variant='models of the released variant (configs/etris_released)',
    meta_key='published_etris',
    keys=etris_keys,
    unused=CLIP_UNUSED,
    infer_sizes=etris_sizes.infer_etris_sizes,
    model_cfg=etris_sizes.etris_model_cfg,
    way_back=dict(bridger_heads=1, head_heads=1),
    exchange_layout=exchange_layout,
)
"""ETRIS (ICCV 2023), https://github.com/kkakkkka/ETRIS."""

CRIS: PublishedCode[PublishedSizes] = PublishedCode(
    name=CRIS_CODE,
    variant='models of configs/cris',
    meta_key='published_cris',
    keys=lambda family: CRIS_KEYS,
    unused=CLIP_UNUSED,
    infer_sizes=cris_sizes.infer_cris_sizes,
    model_cfg=cris_sizes.cris_model_cfg,
    way_back=dict(head_heads=1),
)
"""CRIS (CVPR 2022), https://github.com/DerrickWang005/CRIS.pytorch."""

DETRIS: PublishedCode[DETRISSizes] = PublishedCode(
    name=DETRIS_CODE,
    variant='models of configs/detris',
    meta_key='published_detris',
    keys=lambda family: DETRIS_KEYS,
    unused={'txt_backbone.logit_scale': TEMPERATURE},
    unused_parts=DETRIS_UNUSED_PARTS,
    infer_sizes=detris_sizes.infer_detris_sizes,
    model_cfg=detris_sizes.detris_model_cfg,
    way_back=dict(align_heads=1, head_heads=1, without_adapters=True),
    exchange_layout=exchange_layout,
)
"""DETRIS (AAAI 2025), https://github.com/jiaqihuang01/DETRIS."""
