"""Importing mmetris checks the packages below it, and says in one line what to install."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mmetris
from mmetris import SUPPORTED_VERSIONS, check_versions

ROOT = Path(__file__).parents[1]


def test_the_packages_of_this_environment_are_supported():
    check_versions()
    assert set(SUPPORTED_VERSIONS) == {'torch', 'mmengine', 'mmcv', 'mmseg'}


@pytest.mark.parametrize('name', SUPPORTED_VERSIONS)
@pytest.mark.parametrize('bound', [('99', '100'), ('0.0.1', '0.0.2')])
def test_one_too_old_or_too_new_is_named_with_the_range(name, bound):
    with pytest.raises(ImportError, match=rf'works with {name}>={bound[0]},<{bound[1]}, but \d.* is installed'):
        check_versions({name: bound})


@pytest.mark.parametrize(
    'version, fits', [('2.5.1+cu124', False), ('2.6.0', True), ('2.6.0+cpu', True), ('3.0', False)]
)
def test_builds_of_a_version_are_that_version(monkeypatch, version, fits):
    monkeypatch.setattr(torch, '__version__', version)
    if fits:
        return check_versions()
    with pytest.raises(ImportError, match=f'but {re.escape(version)} is installed'):
        check_versions()


@pytest.mark.parametrize(
    'name, remedy', [('torch', 'torchvision'), ('mmcv', 'mminstall.txt'), ('mmseg', 'mim install')]
)
def test_a_missing_one_is_named_with_its_remedy(monkeypatch, name, remedy):
    def import_module(wanted: str):
        raise ModuleNotFoundError(f'No module named {wanted!r}', name=wanted)

    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(mmetris.importlib.util, 'find_spec', lambda wanted: None)
    monkeypatch.setattr(mmetris.importlib, 'import_module', import_module)
    with pytest.raises(ImportError, match=f'needs {name}, which is not installed.*{remedy}'):
        check_versions({name: SUPPORTED_VERSIONS[name]})


def test_what_a_package_misses_itself_is_not_taken_for_the_package(monkeypatch):
    def import_module(wanted: str):
        raise ModuleNotFoundError("No module named 'addict'", name='addict')

    monkeypatch.setattr(mmetris.importlib, 'import_module', import_module)
    with pytest.raises(ModuleNotFoundError, match='addict'):
        check_versions()


@pytest.mark.parametrize('name', SUPPORTED_VERSIONS)
def test_the_version_is_read_without_importing_the_package(monkeypatch, name):
    version = mmetris.importlib.import_module(name).__version__
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(mmetris.importlib, 'import_module', lambda wanted: pytest.fail(f'{wanted} is imported'))
    assert mmetris._version_of(name) == version


def test_an_old_torch_is_told_at_import_before_anything_else_fails(tmp_path):
    (tmp_path / 'torch.py').write_text("__version__ = '2.5.1+cu124'\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, '-c', 'import mmetris'],
        env=dict(os.environ, PYTHONPATH=path),
        cwd=tmp_path,
        text=True,
        capture_output=True,
    )
    last = done.stderr.strip().split('\n')[-1]
    assert last.startswith('ImportError: mmetris works with torch>=2.6.0,<3.0.0, but 2.5.1+cu124 is installed.'), (
        done.stderr
    )


def test_pip_and_the_readme_ask_for_the_torch_that_is_checked():
    minimum = SUPPORTED_VERSIONS['torch'][0].removesuffix('.0')
    requirements = (ROOT / 'requirements' / 'runtime.txt').read_text(encoding='utf-8').split('\n')
    assert [line for line in requirements if re.match(r'torch\b', line)] == [f'torch>={minimum}']
    assert f'PyTorch {minimum} or newer' in (ROOT / 'README.md').read_text(encoding='utf-8')
