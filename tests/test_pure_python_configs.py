"""Configs in which every type is a class, as MMEngine's pure Python style has them, go through the tools as others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import mmengine.registry
import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope, Registry

import mmetris.registry
from mmetris.datasets.shapes import ShapesSpec, write_shapes
from mmetris.utils.config_options import read_config
from tests.toy_inference import ROOT, save_toy_model
from tests.warm_process import run_script

SPEC = ShapesSpec(num_train=1, num_val=1, num_test_a=1, num_test_b=1)
ROOTS = [
    getattr(module, name)
    for module in (mmetris.registry, mmengine.registry)
    for name in dir(module)
    if isinstance(getattr(module, name), Registry)
]


class Name(str):
    """Text that is written without quotation marks."""

    def __repr__(self) -> str:
        return str(self)


def with_classes(part: Any, imports: dict[str, str]) -> Any:
    """A part of a config with the names of classes in the place of types, and where to import them from."""
    if isinstance(part, (list, tuple)):
        return type(part)(with_classes(one, imports) for one in part)
    if not isinstance(part, dict):
        return part
    changed = {key: with_classes(value, imports) for key, value in part.items()}
    if isinstance(kind := part.get('type'), str):
        built = next(found for registry in ROOTS if (found := registry.get(kind)) is not None)
        module = 'torch.optim' if built.__module__.startswith('torch.optim') else built.__module__
        imports[built.__name__] = module
        changed['type'] = Name(built.__name__)
    return changed


def write_pure(path: Path, cfg: Config) -> Path:
    """Write a config in pure Python."""
    imports: dict[str, str] = {}
    with DefaultScope.overwrite_default_scope('mmetris'):
        parts = {key: with_classes(value, imports) for key, value in cfg.to_dict().items() if key != 'custom_imports'}
    lines = [f'from {module} import {name}' for name, module in imports.items()]
    path.write_text('\n'.join([*lines, *(f'{key} = {value!r}' for key, value in parts.items())]) + '\n')
    return path


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """A toy model's weights and its config in pure Python, with data."""
    folder = tmp_path_factory.mktemp('pure')
    write_shapes(folder / 'shapes', SPEC)
    toy_config, weights = save_toy_model(folder / 'toy')
    cfg = Config.fromfile(ROOT / 'configs/etris/etris_tiny_shapes.py')
    cfg.model = Config.fromfile(toy_config).model
    for phase in ('train', 'val', 'test'):
        cfg[f'{phase}_dataloader'].dataset.data_root = f'{folder / "shapes"}/'
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    write_pure(folder / 'pure.py', cfg)
    Path(weights).rename(folder / 'weights.pth')
    return folder


def test_the_config_has_no_name_where_a_class_may_be(folder):
    def kinds(part: Any) -> list[Any]:
        inner = part.values() if isinstance(part, dict) else part if isinstance(part, (list, tuple)) else ()
        own = [part['type']] if isinstance(part, dict) and 'type' in part else []
        return own + [kind for one in inner for kind in kinds(one)]

    cfg = read_config(folder / 'pure.py')
    found = kinds({key: cfg[key] for key in cfg.keys()})
    assert len(found) > 40 and not [kind for kind in found if isinstance(kind, str)]


@pytest.mark.parametrize(
    'command',
    [
        'tools/misc/print_config.py pure.py --graph --out printed.py',
        'tools/test.py pure.py weights.pth --split val --dtype bfloat16 --tta --out masks --show-dir shown',
        'tools/train.py pure.py --work-dir work --amp-dtype bfloat16 --auto-scale-lr '
        '--cfg-options train_dataloader.persistent_workers=True',
        'tools/misc/browse_dataset.py pure.py --phase val --output-dir browsed',
        'tools/analysis_tools/count_parameters.py pure.py',
        'mmetris/__main__.py data check pure.py',
        'mmetris/__main__.py segment shapes/train2014/PICTURE "a" --model pure.py --weights weights.pth',
    ],
    ids=lambda command: command.split()[0],
)
def test_tools_take_it(folder, command):
    picture = next((folder / 'shapes' / 'train2014').iterdir()).name
    script, *arguments = command.replace('PICTURE', picture).split()
    env = dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='-1')
    done = run_script(ROOT / script, *arguments, cwd=folder, env=env, merge=True)
    assert done.returncode == 0, done.stdout[-3000:]
