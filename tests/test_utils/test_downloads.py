"""Every way in to a file of weights ends at the restricted reader, whatever its name looks like."""

import argparse
import os
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader, load_checkpoint
from safetensors.torch import save_file
from torch import nn

import mmetris.registry
from mmetris.apis.model_zoo import find_model
from mmetris.models.backbones.dinov2_weights import read_dinov2
from mmetris.models.clip.dual_encoder import DualEncoder
from mmetris.models.clip.weights import load_clip_weights
from mmetris.utils.command_line import check_checkpoint
from mmetris.utils.downloads import scheme_of, split_hub_address, weights_path
from tests import toy


class Evil:
    """A pickle of it writes a file when it is loaded by a loader that runs code."""

    def __reduce__(self):
        return (os.mkdir, ('ran',))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# An address of no kind that there is, a name with :// in the middle, and file://.
PLACES = ('s:/host/evil.pth', 'deep/x:/evil.pth', 'plain/evil.pth')
NAMES = ('s://host/evil.pth', 'deep/x://evil.pth', 'file://{}/plain/evil.pth')


@pytest.fixture
def evil(folder):
    for place in PLACES:
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        torch.save(dict(state_dict={'weight': torch.ones(1)}, evil=Evil()), place)
    return [name.format(folder) for name in NAMES]


def by_flag(name):
    parser = argparse.ArgumentParser(exit_on_error=False)

    def fail(message):
        raise ValueError(message)

    parser.error = fail
    check_checkpoint(parser, name, '--resume')


def by_init_cfg(name):
    class Layer(BaseModule):
        def __init__(self):
            super().__init__(init_cfg=dict(type='Pretrained', checkpoint=name))
            self.weight = nn.Parameter(torch.zeros(1))

    Layer().init_weights()


WAYS = dict(
    flag=by_flag,
    load_from=lambda name: load_checkpoint(nn.Linear(1, 1), name),
    init_cfg=by_init_cfg,
    weights=lambda name: find_model('etris_r101_refcoco', name) and by_flag(name),
    clip=lambda name: load_clip_weights(name, DualEncoder.describe(toy.VIT)),
    dinov2=read_dinov2,
)


@pytest.mark.parametrize('way', WAYS)
def test_code_is_refused_by_every_way_in(evil, way):
    for name in evil:
        with pytest.raises(
            (ValueError, FileNotFoundError), match='nothing in it was run|weights are not read from s://'
        ):
            WAYS[way](name)
        assert not Path('ran').exists(), name


def test_all_of_mmengines_loaders_are_ours():
    """Of the packages here, too: a loader that is new there would be missing from our list."""
    ours = mmetris.registry.load_from_restricted_reader
    assert set(CheckpointLoader._schemes.values()) == {ours}


def test_a_checkpoint_of_each_form_is_loaded_by_mmengine(folder):
    state = dict(weight=torch.full((1, 1), 2.0), bias=torch.ones(1))
    torch.save(dict(state_dict=state), 'full.pth')
    torch.save(state, 'state.pth')
    save_file(state, 'x.safetensors')
    for name in ('full.pth', 'state.pth', 'x.safetensors', f'file://{folder}/full.pth', str(folder / 'full.pth')):
        layer = nn.Linear(1, 1)
        load_checkpoint(layer, name, map_location='cpu', strict=True)
        assert layer.weight.item() == 2
    with pytest.raises(FileNotFoundError):
        load_checkpoint(layer, 'none.pth')


def test_what_addresses_mean(folder):
    assert weights_path('~/x.pth') == Path.home() / 'x.pth'
    assert weights_path('file:///a%20b/c.pth') == Path('/a b/c.pth') == weights_path('file://localhost/a%20b/c.pth')
    assert weights_path('mmetris://pretrained/tiny_clip_resnet.safetensors').is_file()
    for address, complaint in (
        ('file://host/a.pth', 'another machine'),
        ('s3://bucket/a.pth', 'not read from s3://'),
        ('s:///a.pth', 'not read from s://'),
        ('FTP://host/a.pth', 'not read from ftp://'),
        ('hf://owner', 'names no repo'),
        ('hf://owner/name', 'no file in it'),
    ):
        with pytest.raises(ValueError, match=complaint):
            weights_path(address)
    with pytest.raises(FileNotFoundError, match='does not ship'):
        weights_path('mmetris://pretrained/none.pth')


@given(st.text(max_size=30))
def test_a_name_is_an_address_or_a_path(text):
    scheme = scheme_of(text)
    assert (scheme is None) == (re.match(r'[a-zA-Z][a-zA-Z0-9+.-]*://', text) is None)
    if scheme is None and not text.startswith('~'):
        assert weights_path(text) == Path(text)


@given(
    st.from_regex(r'[\w.-]{1,9}/[\w.-]{1,9}', fullmatch=True),
    st.none() | st.from_regex(r'[a-z0-9.]{1,9}', fullmatch=True),
    st.none() | st.from_regex(r'[a-z+.]{1,9}(/[a-z+.]{1,9})?', fullmatch=True),
)
def test_an_address_of_the_hub_is_taken_apart(repo_id, revision, file):
    address = f'hf://{repo_id}' + (f'@{revision}' if revision else '') + (f'/{file}' if file else '')
    assert split_hub_address(address) == (repo_id, revision or 'main', file)
