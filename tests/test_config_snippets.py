"""Configs and names of checkpoints that the documents show are ones that work."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmetris.registry import VISUALIZERS

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob('*.md'), *(ROOT / 'docs').glob('*.md')])
SNIPPETS = [
    (f'{path.name}-{number}', block)
    for path in DOCUMENTS
    for number, block in enumerate(re.findall(r'```python\n(.*?)```', path.read_text(encoding='utf-8'), re.DOTALL))
    if block.startswith("_base_ = 'configs/etris/")
]
CHECKPOINT = re.compile(r'(configs/\S+\.py)\s+work_dirs/\S+?_epoch_(\d+)\.pth')


def read(block: str, folder: Path) -> Config:
    """The snippet as a config in a folder that has ``configs``, as the root of the checkout has."""
    (folder / 'configs').symlink_to(ROOT / 'configs')
    (folder / 'mine.py').write_text(block, encoding='utf-8')
    return Config.fromfile(folder / 'mine.py')


@pytest.mark.parametrize('block', [block for _, block in SNIPPETS], ids=[name for name, _ in SNIPPETS])
def test_configs_that_are_shown_can_be_read(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = read(block, tmp_path)
    if 'train_dataloader' in block:
        dataset = cfg.train_dataloader.dataset
        sources = dataset.get('datasets', [dataset])
        assert all(source.pipeline[0].type == 'LoadImageFromFile' for source in sources)
    assert len(SNIPPETS) >= 4


def test_tensorboard_beside_the_local_backend_leaves_the_file_of_the_curve(tmp_path, monkeypatch):
    pytest.importorskip('tensorboard')
    monkeypatch.chdir(tmp_path)
    (block,) = [block for name, block in SNIPPETS if name.startswith('analysis.md')]
    cfg = read(block, tmp_path)
    init_default_scope('mmetris')
    visualizer = VISUALIZERS.build(dict(cfg.visualizer, name='test_config_snippets', save_dir=str(tmp_path / 'run')))
    visualizer.add_scalars(dict(loss=0.5), step=3)
    (curve,) = tmp_path.rglob('scalars.json')
    assert json.loads(curve.read_text()) == dict(loss=0.5, step=3)
    assert len(list(tmp_path.rglob('events.out.tfevents*'))) == 1
    visualizer.close()


def test_checkpoints_that_are_named_are_of_an_epoch_that_the_config_reaches():
    named = [match for path in DOCUMENTS for match in CHECKPOINT.findall(path.read_text(encoding='utf-8'))]
    assert len(named) >= 2
    for config, epoch in named:
        train_cfg = Config.fromfile(ROOT / config).train_cfg
        assert int(epoch) <= train_cfg.max_epochs and int(epoch) % train_cfg.val_interval == 0, (config, epoch)
