"""Foreign layouts of checkpoints, both ways."""

from .cris_sizes import cris_model_cfg, infer_cris_sizes
from .detris_sizes import DETRISSizes, detris_model_cfg, infer_detris_sizes
from .etris_sizes import ETRISSizes, etris_model_cfg, infer_etris_sizes
from .published_checkpoint import ConvertedCheckpoint, PublishedCode
from .published_codes import CRIS, DETRIS, ETRIS
from .published_sizes import PublishedSizes

__all__ = [
    'CRIS',
    'DETRIS',
    'ETRIS',
    'ConvertedCheckpoint',
    'DETRISSizes',
    'ETRISSizes',
    'PublishedCode',
    'PublishedSizes',
    'cris_model_cfg',
    'detris_model_cfg',
    'etris_model_cfg',
    'infer_cris_sizes',
    'infer_detris_sizes',
    'infer_etris_sizes',
]
