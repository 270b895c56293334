"""One process writes the file of test scores."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import DefaultScope

from mmetris.engine.hooks import main_process_logger_hook
from mmetris.registry import HOOKS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize('main', [True, False])
def test_only_the_main_process_writes_scores(main, tmp_path, monkeypatch):
    monkeypatch.setattr(main_process_logger_hook, 'is_main_process', lambda: main)
    said = []
    runner = SimpleNamespace(
        log_dir=str(tmp_path),
        test_dataloader=[1],
        logger=SimpleNamespace(info=said.append),
        log_processor=SimpleNamespace(get_log_after_epoch=lambda *args, **kwargs: ({'val/mIoU': 12.5}, 'mIoU 12.5')),
    )
    hook = HOOKS.build(dict(type='mmetris.MainProcessLoggerHook'))
    hook.json_log_path = 'scores.json'
    hook.after_test_epoch(runner)
    assert said == (['mIoU 12.5'] if main else [])
    if main:
        assert json.loads((tmp_path / 'scores.json').read_text()) == {'val/mIoU': 12.5}
    else:
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    'name',
    ['etris/etris_vitb16_refcoco', 'semseg/etris_vitb16_ade20k-512x512', 'bridger/deeplabv3plus_r50_ade20k-512x512'],
)
@pytest.mark.parametrize('scope', ['mmetris', 'mmseg'])
def test_configs_use_it_and_build_it_in_either_scope(name, scope):
    logger = Config.fromfile(ROOT / f'configs/{name}.py').default_hooks.logger
    with DefaultScope.overwrite_default_scope(scope):
        assert type(MMENGINE_HOOKS.build(logger)) is main_process_logger_hook.MainProcessLoggerHook
