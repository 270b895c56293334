"""Foreign layouts of checkpoints, both ways."""

from .published_etris import (
    ConvertedCheckpoint,
    PublishedSizes,
    from_published,
    infer_sizes,
    ours_name,
    published_name,
    released_model_cfg,
    to_published,
)

__all__ = [
    'ConvertedCheckpoint', 'PublishedSizes', 'from_published', 'infer_sizes', 'ours_name', 'published_name',
    'released_model_cfg', 'to_published'
]
