"""Foreign layouts of checkpoints, both ways."""

from .cris_sizes import cris_model_cfg, infer_cris_sizes
from .etris_sizes import ETRISSizes, etris_model_cfg, infer_etris_sizes
from .published_checkpoint import ConvertedCheckpoint, PublishedCode
from .published_codes import CRIS, ETRIS
from .published_sizes import PublishedSizes

__all__ = [
    'CRIS',
    'ETRIS',
    'ConvertedCheckpoint',
    'ETRISSizes',
    'PublishedCode',
    'PublishedSizes',
    'cris_model_cfg',
    'etris_model_cfg',
    'infer_cris_sizes',
    'infer_etris_sizes',
]
