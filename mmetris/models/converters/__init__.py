"""Foreign layouts of checkpoints, both ways."""

from .etris_keys import ours_name, published_name
from .etris_sizes import PublishedSizes, infer_sizes, released_model_cfg
from .published_etris import ConvertedCheckpoint, from_published, to_published

__all__ = [
    'ConvertedCheckpoint',
    'PublishedSizes',
    'from_published',
    'infer_sizes',
    'ours_name',
    'published_name',
    'released_model_cfg',
    'to_published',
]
