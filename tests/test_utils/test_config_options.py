"""``--cfg-options``: what a word means, and options that would have no effect are refused with those that have."""

from __future__ import annotations

import argparse
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config

from mmetris.utils.config_options import (
    add_cfg_options,
    merge_options,
    option_text,
    parse_value,
    read_config,
    runner_settings,
    unknown_key,
)

BASE = """
input_size = (64, 96)
max_epochs = 4
lr = 1e-3
data_root = 'data/x/'
train_pipeline = [dict(type='Letterbox', size=input_size), dict(type='Pack')]
train_dataloader = dict(batch_size=8, dataset=dict(ann_file=data_root + 'a.json', pipeline=train_pipeline))
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs // 2)
norm = dict(type='SyncBN')
mine = 5
"""
CHILD = """
_base_ = './base.py'
input_size = (128, 128)
train_dataloader = dict(dataset=dict(pipeline=[dict(_base_.train_pipeline[0], size=input_size), dict(type='Pack')]))
optim_wrapper = dict(optimizer=dict(lr=_base_.lr * 2))
model = dict(norm_cfg=_base_.norm, stages=(1, 2))
"""
PURE = """
from mmengine.config import read_base

with read_base():
    from .base import *
from mmengine.optim import OptimWrapper

optim_wrapper = dict(type=OptimWrapper, optimizer=dict(lr=lr * 2))
"""


@pytest.fixture
def folder(tmp_path):
    """A config with a base, and a pure Python one."""
    for name, text in dict(base=BASE, child=CHILD, pure=PURE).items():
        (tmp_path / f'{name}.py').write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    'text, value',
    [
        ('1', 1),
        ('1e-3', 1e-3),
        ('true', True),
        ('None', None),
        ('a,b', ['a', 'b']),
        ('1,', [1]),
        ('[a, b c]', ['a', 'b c']),
        ('()', ()),
        ('[(1,2),(3,4)]', [(1, 2), (3, 4)]),
        # MMEngine's reader calls itself for ever with these.
        ('(1,2),(3,4)', [(1, 2), (3, 4)]),
        ('[1,2],[3,4]', [[1, 2], [3, 4]]),
        ('f(1,2)', 'f(1,2)'),
        ("[dict(type='A',size=(1,2)),dict(type=B)]", [dict(type='A', size=(1, 2)), dict(type='B')]),
        ("{'a': 1, 'b': [x, 'y,z']}", dict(a=1, b=['x', 'y,z'])),
        ('dict()', {}),
        # What the shell left, and what it passes on.
        ("'0.1'", 0.1),
        ('"a,b"', 'a,b'),
        ('"[1,2]"', [1, 2]),
        ("['1','2']", ['1', '2']),
        ("the dog's,b", ["the dog's", 'b']),
        ('D:/a b/c.pth', 'D:/a b/c.pth'),
        ('[http://x:1/a,b]', ['http://x:1/a', 'b']),
        ('a(b', 'a(b'),
        ('', ''),
    ],
)
def test_a_word_means_a_number_text_a_list_a_tuple_or_a_dict(text, value):
    assert parse_value(text) == value and type(parse_value(text)) is type(value)


@pytest.mark.parametrize('text', ['[a', 'a),b', '[(1,2]', "['a,b]", '[dict(a)]', '[' * 99 + ']' * 99])
def test_what_is_not_closed_is_refused(text):
    with pytest.raises(ValueError, match='missing|closes no|is not KEY|within each other'):
        parse_value(text)


PARTS = st.recursive(
    st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none() | st.text('abc xyz./:', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text('abc', min_size=1), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PARTS, max_size=3))
def test_a_value_comes_back_from_its_text(value):
    assert parse_value(option_text(value)) == value


@given(st.text('abc01.,()[]{}=:\'" dict', max_size=30))
def test_any_word_is_read_or_refused(text):
    try:
        parse_value(text)
    except ValueError:
        pass


def test_the_action_adds_up_and_names_what_is_no_pair(capsys):
    parser = argparse.ArgumentParser()
    add_cfg_options(parser)
    words = ['--cfg-options', 'a=1', 'b=x=y', '--cfg-options', 'c=[1,2]']
    assert parser.parse_args(words).cfg_options == dict(a=1, b='x=y', c=[1, 2])
    for word, complaint in (('lr', "'lr' is not KEY=VALUE"), ('a=[1', 'a: ] is missing')):
        with pytest.raises(SystemExit):
            parser.parse_args(['--cfg-options', word])
        assert complaint in capsys.readouterr().err


def test_unknown_key_finds_the_shortest_unknown_part():
    cfg = Config(dict(model=dict(neck=dict(type='Bridger'), parts=[dict(a=1)])))
    assert unknown_key(cfg, 'model.nek.dropout') == 'model.nek'
    assert unknown_key(cfg, 'model.neck.dropout') is None
    assert unknown_key(cfg, 'model.parts.0.b') is None
    assert unknown_key(cfg, 'modell') == 'modell'
    assert unknown_key(cfg, 'work_dir') is None and 'work_dir' in runner_settings()


@pytest.mark.parametrize(
    'options, instead',
    [
        (dict(input_size=(32, 32)), 'train_dataloader.dataset.pipeline.0.size="(32,32)"'),
        (dict(max_epochs=6), 'train_cfg.max_epochs=6 train_cfg.val_interval=3'),
        (dict(lr=0.5), 'optim_wrapper.optimizer.lr=1.0'),
        (dict(data_root='there/'), 'train_dataloader.dataset.ann_file=there/a.json'),
        ({'train_pipeline.0.x': 1}, 'train_dataloader.dataset.pipeline.0.x=1'),
        ({'norm.type': 'BN'}, 'model.norm_cfg.type=BN'),
        (dict(max_epochs=6, lr=0.5), 'optim_wrapper.optimizer.lr=1.0 train_cfg.max_epochs=6 train_cfg.val_interval=3'),
    ],
)
def test_a_variable_is_refused_with_the_settings_that_it_stands_for(folder, options, instead):
    cfg = read_config(folder / 'child.py')
    with pytest.raises(ValueError, match='has already computed other settings from') as error:
        merge_options(cfg, options)
    assert str(error.value).endswith(f'give these instead: {instead}')
    keys = [word.partition('=') for word in instead.split(' ')]
    merge_options(cfg, {key: parse_value(text.strip('"')) for key, _, text in keys})  # They do what they say.


def test_variables_of_pure_python_configs_and_of_written_out_ones_are_refused_too(folder):
    with pytest.raises(ValueError, match='give these instead: optim_wrapper.optimizer.lr=1.0'):
        merge_options(read_config(folder / 'pure.py'), dict(lr=0.5))
    written = folder / 'written.py'
    read_config(folder / 'child.py').dump(written)  # As a training does it: nothing is computed in it.
    with pytest.raises(ValueError, match='give these instead: train_dataloader.dataset.pipeline.0.size'):
        merge_options(read_config(written), dict(input_size=(32, 32)))
    with pytest.raises(ValueError, match='give these instead: train_cfg.max_epochs'):
        merge_options(Config(read_config(written).to_dict()), dict(max_epochs=6))  # It has no file.


def test_a_value_that_the_config_cannot_compute_with_is_refused_with_the_places(folder):
    with pytest.raises(ValueError, match=r'cannot: unsupported.*give these instead: train_cfg.max_epochs'):
        merge_options(read_config(folder / 'child.py'), dict(max_epochs='x'))


def test_what_nothing_was_computed_from_is_merged(folder):
    cfg = read_config(folder / 'child.py')
    merge_options(cfg, {'mine': 6, 'train_dataloader.batch_size': 2, 'randomness.seed': 3})
    assert (cfg.mine, cfg.train_dataloader.batch_size, cfg.randomness.seed) == (6, 2, 3)


def test_items_of_lists_and_tuples_are_replaced(folder):
    cfg = read_config(folder / 'child.py')
    merge_options(cfg, {'model.stages.1': 7, 'train_dataloader.dataset.pipeline.1': 'x'})
    assert cfg.model.stages == (1, 7) and cfg.train_dataloader.dataset.pipeline[1] == 'x'
    merge_options(cfg, {'train_dataloader.dataset.pipeline.0.size.1': 7})
    assert cfg.train_dataloader.dataset.pipeline[0] == dict(type='Letterbox', size=(128, 7))
    for options, complaint in (
        ({'model.stages.2': 7}, 'no item 2 in a list of 2'),
        ({'model.stages.x': 7}, 'no item x'),
        ({'train_dataloader.batch_size.x': 7}, 'batch_size is 8, which has no parts'),
    ):
        with pytest.raises(ValueError, match=complaint):
            merge_options(cfg, options)


def test_custom_imports_are_imported(folder, monkeypatch):
    (folder / 'imported_by_an_option.py').write_text('DONE = True')
    monkeypatch.syspath_prepend(folder)
    cfg = read_config(folder / 'child.py')
    cfg.custom_imports = dict(imports=[])
    merge_options(cfg, {'custom_imports.imports': ['imported_by_an_option']})
    assert sys.modules.pop('imported_by_an_option').DONE


def test_a_config_that_cannot_be_read_is_one_sentence(folder):
    (folder / 'broken.py').write_text('model = dict(')
    with pytest.raises(ValueError, match='broken.py cannot be read as a config: SyntaxError'):
        read_config(folder / 'broken.py')
    with pytest.raises(FileNotFoundError, match='config file not found'):
        read_config(folder / 'none.py')
