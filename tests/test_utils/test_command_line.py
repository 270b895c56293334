"""Mistakes of the command line end with one line, before anything is built."""

from __future__ import annotations

import argparse

import pytest
from mmengine.config import Config

from mmetris.utils.command_line import (
    add_config_arguments,
    add_launcher_arguments,
    check_checkpoint,
    load_config,
    prepare_processes,
    set_work_dir,
    unknown_key,
)

TEXT = """
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1.0))
train_dataloader = dict(dataset=dict(pipeline=[dict(type='A'), dict(type='B')]))
"""


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='tool')
    add_config_arguments(parser)
    add_launcher_arguments(parser)
    parser.add_argument('--work-dir')
    return parser


@pytest.fixture
def path(tmp_path) -> str:
    file = tmp_path / 'some_config.py'
    file.write_text(TEXT)
    return str(file)


def load(parser, *arguments: str) -> Config:
    return load_config(parser, parser.parse_args(list(arguments)))


def test_options_are_merged(parser, path):
    cfg = load(parser, path, '--cfg-options', 'optim_wrapper.optimizer.lr=0.5',
               'train_dataloader.dataset.pipeline.1.type=C')
    assert cfg.optim_wrapper.optimizer.lr == 0.5
    assert cfg.train_dataloader.dataset.pipeline[1].type == 'C'


def test_a_missing_config_is_named(parser, capsys):
    with pytest.raises(SystemExit) as stopped:
        load(parser, 'no/such.py')
    assert stopped.value.code == 2
    assert 'config file not found: no/such.py' in capsys.readouterr().err


def test_an_unknown_first_key_is_an_error_that_suggests_the_right_one(parser, path, capsys):
    with pytest.raises(SystemExit):
        load(parser, path, '--cfg-options', 'optim_wraper.optimizer.lr=0.5')
    message = capsys.readouterr().err
    assert 'no setting "optim_wraper"' in message and 'did you mean "optim_wrapper"?' in message


def test_a_setting_of_the_runner_may_be_new(parser, path):
    assert load(parser, path, '--cfg-options', 'randomness.seed=3').randomness.seed == 3


def test_a_new_last_word_is_fine_but_a_new_section_is_warned_about(parser, path, recwarn):
    load(parser, path, '--cfg-options', 'optim_wrapper.accumulative_counts=2')
    assert not [warning for warning in recwarn if 'cfg-options' in str(warning.message)]
    with pytest.warns(UserWarning, match='has no section "optim_wrapper.optimiser"'):
        load(parser, path, '--cfg-options', 'optim_wrapper.optimiser.lr=2')


def test_a_bad_index_is_an_error(parser, path, capsys):
    with pytest.raises(SystemExit):
        load(parser, path, '--cfg-options', 'train_dataloader.dataset.pipeline.7.type=C')
    assert '7' in capsys.readouterr().err


def test_unknown_key_finds_the_shortest_unknown_part():
    cfg = Config(dict(model=dict(neck=dict(type='Bridger'), parts=[dict(a=1)])))
    assert unknown_key(cfg, 'model.nek.dropout') == 'model.nek'
    assert unknown_key(cfg, 'model.neck.dropout') is None
    assert unknown_key(cfg, 'model.parts.0.b') is None
    assert unknown_key(cfg, 'modell') == 'modell'
    assert unknown_key(cfg, 'work_dir') is None


def test_a_missing_checkpoint_is_an_error_and_an_address_passes(parser, capsys):
    check_checkpoint(parser, 'https://host/file.pth', '--resume')
    with pytest.raises(SystemExit):
        check_checkpoint(parser, 'no.pth', '--resume')
    assert '--resume: checkpoint not found: no.pth' in capsys.readouterr().err


def test_the_work_folder_is_the_command_lines_then_the_configs_then_its_name(parser, path):
    args, cfg = parser.parse_args([path]), Config(dict())
    set_work_dir(cfg, args)
    assert cfg.work_dir == 'work_dirs/some_config'
    cfg.work_dir = 'mine'
    set_work_dir(cfg, args)
    assert cfg.work_dir == 'mine'
    args.work_dir = 'given'
    set_work_dir(cfg, args)
    assert cfg.work_dir == 'given'


def test_the_pytorch_launcher_needs_a_launcher_around_it(parser, path, capsys, monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    monkeypatch.setenv('LOCAL_RANK', '0')
    with pytest.raises(SystemExit):
        prepare_processes(parser, Config(dict()), parser.parse_args([path, '--launcher', 'pytorch']))
    assert 'tools/dist_train.sh' in capsys.readouterr().err
