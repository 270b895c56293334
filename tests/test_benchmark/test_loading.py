"""Samples are loaded from files as training loads them."""

import pytest
from mmengine.config import Config

from mmetris.benchmark import Setting, measure
from mmetris.benchmark.loading import draw_photos


def test_samples_are_loaded_from_drawn_photographs(tmp_path):
    source = draw_photos(tmp_path, 2)
    sizes = [path.stat().st_size for path in (tmp_path / 'images').iterdir()]
    assert all(40_000 < size < 250_000 for size in sizes)
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='Letterbox', size=(64, 64)),
        dict(type='TokenizeExpression', context_length=17),
        dict(type='PackSegInputs'),
    ]
    cfg = Config(dict(train_dataloader=dict(dataset=dict(type='RefCocoDataset', pipeline=pipeline, **source))))
    for own_data in (True, False):
        row = measure(cfg, Setting('data', batch=2, own_data=own_data), repeats=1)[0]
        assert row.images == 2 and row.median > 0 and row.flops is None
    cfg.train_dataloader.dataset.type = 'ADE20KDataset'
    with pytest.raises(ValueError, match='ADE20KDataset'):
        measure(cfg, Setting('data'), repeats=1)
