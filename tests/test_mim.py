"""MIM's commands on the model index: what MIM reads of it, and the commands themselves where openmim is installed.

openmim is no requirement of the tests: it pins setuptools, rich and requests to versions that PyTorch and typer refuse.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config

from mmetris.apis.model_zoo import NOT_PUBLISHED, SHIPPED, indexed_models, shipped_file

ROOT = Path(__file__).parents[1]
MODELS = [
    (path, model)
    for path in yaml.safe_load((ROOT / 'model-index.yml').read_text(encoding='utf-8'))['Import']
    for model in yaml.safe_load((ROOT / path).read_text(encoding='utf-8'))['Models']
]
NAMES = [model['Name'] for _, model in MODELS]


@pytest.mark.parametrize('path, model', MODELS, ids=NAMES)
def test_mim_download_ends_well_on_each_model(path, model):
    """For each address it looks for the part behind the last slash in the target folder, and fetches it if it is not
    there, by HTTP alone; then it writes the config. Without an address it ends in an AttributeError."""
    addresses = model['Weights'].split(',')
    for address in addresses:
        is_fetched = address.startswith(('http://', 'https://')) and address.rpartition('/')[2]
        assert is_fetched or address.rpartition('/')[2] == '', f'{path}: MIM cannot fetch {address}'
    assert (ROOT / model['Config']).is_file()
    assert isinstance(Config.fromfile(ROOT / model['Config'], import_custom_modules=False).pretty_text, str)


def test_addresses_inside_the_package_are_files():
    inside = [model['Weights'] for _, model in MODELS if model['Weights'].startswith(SHIPPED)]
    shipped = [address for address in inside if address != NOT_PUBLISHED]
    assert [address.removeprefix(SHIPPED).strip('/') for address in shipped] == [
        model['Weights'] for model in indexed_models() if 'Weights' in model
    ]
    for address in shipped:
        if not (ROOT / address.removeprefix(SHIPPED).strip('/')).is_file():
            pytest.skip('the weights of the demo model are not in this copy')
        assert Path(shipped_file(address)).is_file()


def test_mim_search_reads_each_field():
    """Names are looked up in lower case; lists are joined as text; collections that are referred to exist."""
    collections = set()
    for path in {path for path, _ in MODELS}:
        for entry in yaml.safe_load((ROOT / path).read_text(encoding='utf-8')).get('Collections', []):
            collections.add(entry['Name'])
            assert (ROOT / entry['README']).is_file()
    for path, model in MODELS:
        assert model['Name'] == Path(model['Config']).stem, path
        assert model['Name'] == model['Name'].lower() and model.get('In Collection', 'ETRIS') in collections
        for value in model['Metadata'].values():
            assert not isinstance(value, dict) and (not isinstance(value, list) or all(map(str.lower, value)))
    assert len(set(NAMES)) == len(NAMES)


def test_mim_train_finds_each_config_by_its_name_alone():
    """It walks through the package for files of that name and gives up if there are two."""
    counts = Counter(path.name for path in (ROOT / 'configs').rglob('*.py') if '_base_' not in path.parts)
    assert [name for name, count in counts.items() if count > 1] == []


@pytest.mark.skipif(shutil.which('mim') is None, reason='openmim is not installed')
@pytest.mark.processes
def test_mims_own_commands(tmp_path):
    """Of an environment in which mmetris is installed, in editable mode or not."""

    def mim(*command: str) -> str:
        done = subprocess.run(
            ['mim', *command], text=True, capture_output=True, cwd=tmp_path, env={**os.environ, 'PYTHONPATH': ''}
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    assert 'mmetris' in mim('list')
    assert 'etris_r50_refcoco' in mim('search', 'mmetris', '--valid-config')
    assert '66.38' in mim('search', 'mmetris', '--config', 'etris_r50_refcoco')
    for name in ('etris_r50_refcoco', 'etris_tiny_long-192px_shapes'):
        mim('download', 'mmetris', '--config', name, '--dest', 'here')
        assert Config.fromfile(tmp_path / 'here' / f'{name}.py').model.type == 'ReferringSegmentor'
    assert '--amp-dtype' in mim('train', 'mmetris', 'etris_tiny_shapes.py', '--gpus', '0', '--help')
