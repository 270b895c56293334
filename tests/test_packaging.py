"""What gets installed: metadata that replaces nothing, MIM's files, links when editable and copies in a wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from mmetris import SUPPORTED_VERSIONS
from setup import read_requirements

ROOT = Path(__file__).parents[1]
FILES = (
    'setup.py',
    'pyproject.toml',
    'MANIFEST.in',
    'README.md',
    'CHANGELOG.md',
    'CITATION.cff',
    'LICENSE',
    'model-index.yml',
)
FOLDERS = ('mmetris', 'configs', 'tools', 'demo', 'projects/gradio_demo', 'requirements')
# Named one by one: the folder is also where users put CLIP's weights.
PRETRAINED = ('README.md', 'metafile.yml', 'tiny_clip_resnet.safetensors', 'etris_tiny_long-192px_shapes.pth')
# Distributions of OpenMMLab, of both lines.
TRIO = re.compile(r'(onedl-)?(mmengine|mmcv(-lite|-full)?|mmsegmentation)\b', re.IGNORECASE)

BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, sys.argv[1])(sys.argv[2]))
"""


@pytest.fixture(scope='module')
def checkout(tmp_path_factory) -> Path:
    """A copy of what git would hold, so that building leaves no traces in the working tree."""
    copy = tmp_path_factory.mktemp('checkout')
    ignore = shutil.ignore_patterns('.mim', '__pycache__', '*.egg-info')
    for name in FILES:
        shutil.copy(ROOT / name, copy / name)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    (copy / 'pretrained').mkdir()
    (copy / 'pretrained' / 'RN50.pt').write_text("a user's own, not to be shipped")
    for name in PRETRAINED:
        if (ROOT / 'pretrained' / name).is_file():
            shutil.copy(ROOT / 'pretrained' / name, copy / 'pretrained' / name)
    return copy


def build(checkout: Path, what: str, out: Path) -> Path:
    """Run one of setuptools' build hooks, as pip does, without network."""
    out.mkdir(exist_ok=True)
    result = subprocess.run([sys.executable, '-c', BUILD, what, str(out)], cwd=checkout, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    return out / result.stdout.strip().split('\n')[-1]


@pytest.fixture(scope='module')
def wheel(checkout, tmp_path_factory) -> zipfile.ZipFile:
    """The built wheel."""
    return zipfile.ZipFile(build(checkout, 'build_wheel', tmp_path_factory.mktemp('wheel')))


def test_installing_asks_for_no_openmmlab_package_and_pins_nothing(wheel):
    """Either line of packages writes the same folders, so asking for one would break a user's other."""
    text = next(wheel.read(name).decode() for name in wheel.namelist() if name.endswith('.dist-info/METADATA'))
    metadata = Parser().parsestr(text)
    always = [line for line in metadata.get_all('Requires-Dist') if 'extra ==' not in line]
    assert any(line.startswith('open_clip_torch') or line.startswith('open-clip-torch') for line in always)
    assert not [line for line in always if TRIO.match(line)]
    assert not [line for line in always if '==' in line]
    assert sorted(line for line in always if re.match(r'(torch|numpy)\b', line)) == ['numpy', 'torch>=2.6']
    extras = [line for line in metadata.get_all('Requires-Dist') if 'extra == "mminstall"' in line]
    assert len(extras) == 3 and all(TRIO.match(line) for line in extras)
    assert metadata['Requires-Python'] == '>=3.10'


def test_a_wheel_says_who_wrote_it_and_that_it_is_typed(wheel):
    text = next(wheel.read(name).decode() for name in wheel.namelist() if name.endswith('.dist-info/METADATA'))
    metadata = Parser().parsestr(text)
    assert metadata['Author'] == 'The mmetris authors'
    assert (
        metadata.get_all('Project-URL') == ['Paper, https://arxiv.org/abs/2307.11545'] and metadata['Home-page'] is None
    )
    assert {'Typing :: Typed', 'Programming Language :: Python :: 3.10'} <= set(metadata.get_all('Classifier'))
    assert 'mmetris/py.typed' in wheel.namelist()


def test_a_wheel_holds_mims_files_as_copies(wheel):
    names = set(wheel.namelist())
    scripts = [
        path
        for folder in ('configs', 'tools', 'demo', 'projects/gradio_demo')
        for path in (ROOT / folder).rglob('*.py')
    ]
    for path in [*scripts, *(ROOT / 'tools').rglob('*.sh')]:
        assert f'mmetris/.mim/{path.relative_to(ROOT).as_posix()}' in names
    assert {'mmetris/.mim/model-index.yml', 'mmetris/.mim/configs/etris/metafile.yml'} <= names
    outside = ('tests/', 'tools/', 'configs/', 'demo/', 'projects/', 'pretrained/')
    assert not [name for name in names if name.startswith(outside) or '__pycache__' in name]


def test_a_wheel_holds_the_demo_model_and_no_other_weights(wheel):
    shipped = {name.rpartition('/')[2] for name in wheel.namelist() if name.startswith('mmetris/.mim/pretrained/')}
    expected = {'metafile.yml', 'tiny_clip_resnet.safetensors', 'etris_tiny_long-192px_shapes.pth'}
    assert shipped == {name for name in expected if (ROOT / 'pretrained' / name).is_file()}


def test_a_wheel_has_the_console_command(wheel):
    text = next(wheel.read(name).decode() for name in wheel.namelist() if name.endswith('entry_points.txt'))
    assert 'mmetris = mmetris.cli:main' in text


def test_the_installed_package_segments_from_any_folder(wheel, tmp_path):
    """Configs, model index and the tiny CLIP are found inside of it, not in the checkout."""
    wheel.extractall(tmp_path / 'site')
    (tmp_path / 'elsewhere').mkdir()
    program = """
import numpy, torch
from mmetris.apis import RefSegInferencer, init_model, model_zoo
from mmetris.models.encoders.slim_checkpoint import slim_state_dict
assert model_zoo.package_root().name == '.mim', model_zoo.package_root()
weights = model_zoo.package_root() / model_zoo.DEMO_WEIGHTS
if not weights.is_file():
    model = init_model(model_zoo.find_model(weights=__file__).config, device='cpu')
    state = dict(model.state_dict())
    slim_state_dict(model, state)
    torch.save(dict(state_dict=state), weights)
masks = RefSegInferencer(device='cpu')(numpy.zeros((40, 60, 3), numpy.uint8), 'the red circle')['masks']
assert masks[0].shape == (40, 60)
"""
    (tmp_path / 'elsewhere' / 'program.py').write_text(program)

    def call(*arguments: str) -> str:
        env = dict(os.environ, PYTHONPATH=str(tmp_path / 'site'))
        command, cwd = [sys.executable, *arguments], tmp_path / 'elsewhere'
        done = subprocess.run(command, cwd=cwd, text=True, capture_output=True, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    call('program.py')
    assert call('-m', 'mmetris', 'train', '--help').startswith('usage: train.py')
    (page,) = (tmp_path / 'site').rglob('gradio_demo/app.py')
    assert '.mim' in page.parts


def test_a_wheel_holds_every_module(wheel):
    names = set(wheel.namelist())
    modules = [path for path in (ROOT / 'mmetris').rglob('*.py') if '.mim' not in path.parts]
    assert not [path for path in modules if path.relative_to(ROOT).as_posix() not in names]


def test_an_editable_install_links_mims_files_and_building_again_is_fine(checkout, tmp_path):
    for _ in range(2):
        build(checkout, 'build_editable', tmp_path / 'editable')
    mim = checkout / 'mmetris' / '.mim'
    for name in ('configs', 'tools', 'demo', 'model-index.yml', 'pretrained/tiny_clip_resnet.safetensors'):
        assert (mim / name).is_symlink()
        assert (mim / name).resolve() == (checkout / name).resolve()


def test_mim_and_mmengine_find_an_editable_install_by_its_metadata(checkout, tmp_path):
    """Both join site-packages and the first line of top_level.txt; what stands there must be the package's folder."""
    wheel = zipfile.ZipFile(build(checkout, 'build_editable', tmp_path / 'editable'))
    name = next(name for name in wheel.namelist() if name.endswith('.dist-info/top_level.txt'))
    first, *others = wheel.read(name).decode().split()
    installed = Path('/some/site-packages') / first
    assert installed == checkout.resolve() / 'mmetris' and others == ['mmetris']
    assert (installed / '.mim' / 'model-index.yml').is_file() and (installed / '.mim' / 'tools' / 'train.py').is_file()


def test_a_wheels_metadata_names_the_package_alone(wheel):
    name = next(name for name in wheel.namelist() if name.endswith('.dist-info/top_level.txt'))
    assert wheel.read(name).decode().split() == ['mmetris']


def test_the_requirements_of_the_trio_are_ranges_of_the_maintained_packages():
    lines = [
        line
        for line in (ROOT / 'requirements' / 'mminstall.txt').read_text().split('\n')
        if line and not line.startswith('#')
    ]
    assert [re.split('[><=]', line)[0] for line in lines] == ['onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation']
    assert all('>=' in line and '<' in line for line in lines)


def test_the_original_line_is_pinned_to_what_is_supported_and_takes_the_same_tests():
    """`make test-original` installs both files together: no requirement of the tests may contradict a pin."""
    pins = dict(
        line.split('==')
        for line in (ROOT / 'requirements' / 'original.txt').read_text().split('\n')
        if '==' in line and not line.startswith('#')
    )
    for package, module in dict(torch='torch', mmengine='mmengine', mmsegmentation='mmseg').items():
        minimum, too_new = (Version(bound) for bound in SUPPORTED_VERSIONS[module])
        assert minimum <= Version(pins[package]) < too_new
    wanted = [Requirement(line) for name in ('tests', 'runtime') for line in read_requirements(name)]
    wanted += [line for line in map(Requirement, read_requirements('original')) if line.name == 'setuptools']
    assert all(one.specifier.contains(pins[one.name]) for one in wanted if one.name in pins)
    # The last ones with pkg_resources.
    assert all(one.specifier.contains('80.9.0') for one in wanted if one.name == 'setuptools')


@pytest.mark.skipif(shutil.which('make') is None, reason='make is not installed')
def test_make_test_original_refuses_a_wheel_that_is_not_there(tmp_path):
    for name in ('Makefile', 'setup.py', 'pyproject.toml'):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / 'tools' / 'misc').mkdir(parents=True)
    shutil.copy(ROOT / 'tools' / 'misc' / 'compile_mmcv.sh', tmp_path / 'tools' / 'misc')
    result = subprocess.run(
        ['make', 'test-original', 'MMCV_WHEEL=none.whl'], cwd=tmp_path, text=True, capture_output=True
    )
    assert result.returncode != 0 and 'MMCV_WHEEL: no file none.whl' in result.stderr
    assert not (tmp_path / '.venv-original').exists()


def test_make_says_what_is_missing_when_python_is_too_old(tmp_path):
    if shutil.which('make') is None:
        pytest.skip('make is not installed')
    old = tmp_path / 'old-python'
    # Stands for Python 3.8: prints its version and fails the comparison.
    old.write_text('#!/bin/sh\ncase "$2" in *sys.exit*) exit 1;; *) echo 3.8;; esac\n')
    old.chmod(0o755)
    shutil.copy(ROOT / 'Makefile', tmp_path)
    for name in ('setup.py', 'pyproject.toml'):
        shutil.copy(ROOT / name, tmp_path)
    result = subprocess.run(['make', 'test', f'PYTHON={old}'], cwd=tmp_path, text=True, capture_output=True)
    assert result.returncode != 0
    assert 'mmetris needs Python 3.10 or newer' in result.stderr and '3.8' in result.stderr
    result = subprocess.run(['make', 'test', 'PYTHON=no-such-python'], cwd=tmp_path, text=True, capture_output=True)
    assert "'no-such-python' does not run" in result.stderr
