"""Mistakes of the command line end with one line, before anything is built."""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import AmpOptimWrapper, ApexOptimWrapper, OptimWrapper
from mmseg.models import EncoderDecoder

from mmetris.engine import BFloat16OptimWrapper
from mmetris.engine.hooks import CompileHook
from mmetris.models import ReferringSegmentor
from mmetris.utils.command_line import (
    LAUNCHER_VARIABLE,
    add_compile_hook,
    add_config_arguments,
    add_launcher_arguments,
    check_checkpoint,
    check_counts,
    check_pipelines,
    checkpoint_to_resume,
    end_processes,
    load_config,
    prepare_mixed_precision,
    prepare_processes,
    set_work_dir,
    settle_loaders,
)

ROOT = Path(__file__).parents[2]
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
    cfg = load(
        parser, path, '--cfg-options', 'optim_wrapper.optimizer.lr=0.5', 'train_dataloader.dataset.pipeline.1.type=C'
    )
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


def test_a_name_or_a_path_of_the_package_is_a_config_anywhere(parser, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    by_name = load(parser, 'etris_tiny_shapes')
    assert by_name.filename == load(parser, 'configs/etris/etris_tiny_shapes.py').filename
    assert Path(by_name.model.dual_encoder.clip_checkpoint).is_file()
    with pytest.raises(SystemExit):
        load(parser, 'etris_tiny_shape')
    assert 'config file not found: etris_tiny_shape; did you mean etris_tiny_shapes' in capsys.readouterr().err


def test_loaders_without_processes_lose_what_pytorch_refuses_then():
    cfg = Config(
        dict(
            train_dataloader=dict(num_workers=0, persistent_workers=True, prefetch_factor=2, batch_size=1),
            val_dataloader=dict(persistent_workers=True),
            test_dataloader=dict(num_workers=2, persistent_workers=True),
        )
    )
    settle_loaders(cfg)
    assert cfg.train_dataloader == dict(num_workers=0, batch_size=1) and cfg.val_dataloader == {}
    assert cfg.test_dataloader.persistent_workers


def test_a_missing_checkpoint_is_an_error_also_at_an_address(parser, capsys):
    for name, complaint in (
        ('no.pth', 'checkpoint not found: no.pth'),
        ('http://127.0.0.1:9/file.pth', 'could not be fetched'),  # A port that nobody listens at.
        ('ftp://host/file.pth', 'weights are not read from ftp://'),
    ):
        with pytest.raises(SystemExit):
            check_checkpoint(parser, name, '--resume')
        assert '--resume: ' in (said := capsys.readouterr().err) and complaint in said


def test_the_work_folder_is_the_command_lines_then_the_configs_then_its_name(parser, path):
    args, cfg = parser.parse_args([path]), Config(dict())
    set_work_dir(parser, cfg, args)
    assert cfg.work_dir == 'work_dirs/some_config'
    cfg.work_dir = 'mine'
    set_work_dir(parser, cfg, args)
    assert cfg.work_dir == 'mine'
    args.work_dir = 'given'
    set_work_dir(parser, cfg, args)
    assert cfg.work_dir == 'given'


@pytest.mark.parametrize('folder', ['', '/inside'])
def test_a_file_in_the_place_of_a_work_folder_is_one_line(parser, path, capsys, folder):
    args = parser.parse_args([path])
    args.work_dir = f'{__file__}{folder}'
    with pytest.raises(SystemExit) as ended:
        set_work_dir(parser, Config(dict()), args)
    assert ended.value.code == 2
    assert f'--work-dir {args.work_dir}: {__file__} is a file, not a folder' in capsys.readouterr().err


def mixed(parser, monkeypatch, amp_dtype: str | None, gpu: bool, has_bfloat16: bool = True, **wrapper) -> dict:
    """The optimizer's wrapper after --amp, on a machine that is pretended."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    monkeypatch.setattr(
        torch.cuda, 'is_bf16_supported', lambda including_emulation=True: has_bfloat16 or including_emulation
    )
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'Old GPU')
    cfg = Config(dict(optim_wrapper=dict(dict(type='OptimWrapper', accumulative_counts=2), **wrapper)))
    prepare_mixed_precision(parser, cfg, argparse.Namespace(config='some.py', amp_dtype=amp_dtype))
    return dict(cfg.optim_wrapper)


FLOAT16 = dict(type='AmpOptimWrapper', accumulative_counts=2, loss_scale='dynamic')
BFLOAT16 = dict(type='mmetris.BFloat16OptimWrapper', accumulative_counts=2)


def test_mixed_precision_is_float16_unless_told_otherwise(parser, monkeypatch):
    assert mixed(parser, monkeypatch, None, gpu=True) == FLOAT16
    assert mixed(parser, monkeypatch, None, gpu=True, type=OptimWrapper) == FLOAT16
    assert mixed(parser, monkeypatch, 'float16', gpu=True) == FLOAT16 | dict(dtype='float16')
    assert mixed(parser, monkeypatch, None, gpu=True, type='AmpOptimWrapper', dtype='bfloat16')['dtype'] == 'bfloat16'
    assert mixed(parser, monkeypatch, 'float16', gpu=True, **BFLOAT16)['type'] == 'AmpOptimWrapper'


@pytest.mark.parametrize('gpu', [False, True])
def test_bfloat16_is_for_any_machine_and_keeps_the_wrappers_other_settings(parser, monkeypatch, gpu):
    assert mixed(parser, monkeypatch, 'bfloat16', gpu) == BFLOAT16
    assert mixed(parser, monkeypatch, 'bfloat16', gpu, **FLOAT16 | dict(dtype='float16')) == BFLOAT16
    assert mixed(parser, monkeypatch, None, gpu, **BFLOAT16) == BFLOAT16
    for kind in (OptimWrapper, AmpOptimWrapper, BFloat16OptimWrapper):  # as pure Python configs name them
        assert mixed(parser, monkeypatch, 'bfloat16', gpu, type=kind) == BFLOAT16


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(amp_dtype=None, gpu=False), 'needs a GPU, and none is visible; --amp-dtype bfloat16 runs on CPUs too'),
        (dict(amp_dtype='bfloat16', gpu=True, has_bfloat16=False), 'Old GPU does not compute in bfloat16; take'),
        (dict(amp_dtype='bfloat16', gpu=True, type='DeepSpeedOptimWrapper'), 'is set in strategy.bf16'),
        (dict(amp_dtype='bfloat16', gpu=False, type='ApexOptimWrapper'), 'some.py has a ApexOptimWrapper'),
        (dict(amp_dtype='bfloat16', gpu=False, type=ApexOptimWrapper), 'some.py has a ApexOptimWrapper'),
    ],
)
def test_mixed_precision_that_cannot_be_is_one_line(parser, monkeypatch, capsys, arguments, message):
    with pytest.raises(SystemExit):
        mixed(parser, monkeypatch, **arguments)
    assert message in capsys.readouterr().err


def test_the_pytorch_launcher_needs_a_launcher_around_it(parser, path, capsys, monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    monkeypatch.setenv('LOCAL_RANK', '0')
    with pytest.raises(SystemExit):
        prepare_processes(parser, Config(dict()), parser.parse_args([path, '--launcher', 'pytorch']))
    assert 'tools/dist_train.sh' in capsys.readouterr().err


def compiled(parser, path, **settings) -> list[str]:
    """Types of the hooks that a config has after ``--compile``."""
    cfg = Config(dict(dict(model=dict(type='ClassNameSegmentor')), **settings))
    add_compile_hook(parser, cfg, argparse.Namespace(config=path))
    return [hook['type'] for hook in cfg.custom_hooks]


def test_compiling_adds_one_hook_and_keeps_the_others(parser, path):
    assert compiled(parser, path) == ['mmetris.CompileHook']
    assert compiled(parser, path, custom_hooks=[dict(type='EMAHook')]) == ['EMAHook', 'mmetris.CompileHook']
    own = [dict(type='CompileHook', options=dict(dynamic=True))]
    assert compiled(parser, path, custom_hooks=own) == ['CompileHook']
    of_classes = dict(model=dict(type=ReferringSegmentor), custom_hooks=[dict(type=CompileHook)])
    assert compiled(parser, path, **of_classes) == [CompileHook]


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(model=dict(type='EncoderDecoder')), 'has a EncoderDecoder; compile=True of MMEngine'),
        (dict(model=dict(type=EncoderDecoder)), 'has a EncoderDecoder; compile=True of MMEngine'),
        (
            dict(model=dict(type='ReferringSegmentor'), strategy=dict(type='mmetris.RefSegFSDPStrategy')),
            'does not go with the strategy',
        ),
    ],
)
def test_what_cannot_be_compiled_ends_with_one_line(parser, path, capsys, settings, message):
    with pytest.raises(SystemExit):
        add_compile_hook(parser, Config(settings), argparse.Namespace(config=path))
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_the_group_of_processes_is_left_if_there_is_one(tmp_path):
    end_processes()
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/group', rank=0, world_size=1)
    end_processes()
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize('name', ['max_epochs', 'max_iters', 'val_interval'])
@pytest.mark.parametrize('value', [0, -1, 2.5, True, '3'])
def test_less_than_one_epoch_step_or_interval_is_refused(parser, capsys, name, value):
    check_counts(parser, Config(dict(train_cfg={'max_epochs': 1, name: 1})))
    check_counts(parser, Config(dict(model=dict(), train_cfg=None)))
    with pytest.raises(SystemExit) as ended:
        check_counts(parser, Config(dict(train_cfg={name: value})))
    assert ended.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert f'train_cfg.{name}={value!r} must be a whole number of at least 1' in message
    assert ('val_cfg=None' in message) == (name == 'val_interval')


def test_a_pipeline_without_a_step_is_refused(parser, capsys):
    loader = dict(dataset=dict(type='RefCOCODataset', pipeline=[dict(type='LoadImageFromFile')]))
    several = dict(dataset=dict(type='ConcatDataset', datasets=[]))
    check_pipelines(
        parser, Config(dict(train_dataloader=loader, val_dataloader=several)), ('train_dataloader', 'val_dataloader')
    )
    loader['dataset']['pipeline'] = []
    with pytest.raises(SystemExit):
        check_pipelines(parser, Config(dict(test_dataloader=loader)), ('train_dataloader', 'test_dataloader'))
    assert 'test_dataloader.dataset.pipeline is empty' in capsys.readouterr().err.splitlines()[-1]


def group_threads() -> int:
    """How many threads of gloo this process has."""
    return sum('gloo' in path.read_text() for path in Path('/proc/self/task').glob('*/comm'))


@pytest.mark.skipif(not Path('/proc/self/task').is_dir(), reason='names of threads are read from /proc')
def test_no_thread_of_the_group_is_left_to_abort_at_exit(tmp_path):
    """Also where a distributed wrapper holds the group in a reference cycle, as that of a runner."""
    gc.collect()
    before = group_threads()
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/group', rank=0, world_size=1)
    model = MMDistributedDataParallel(torch.nn.Linear(2, 2))
    model.itself = [model]
    assert group_threads() > before
    del model
    end_processes()
    assert group_threads() == before


def test_resume_looks_where_the_hook_writes(parser, tmp_path):
    """A hook's `out_dir` gets a subfolder of the work folder's name, but for the work folder itself."""
    work_dir = tmp_path / 'run'
    other = tmp_path / 'elsewhere'
    for folder in (work_dir, other / 'run'):
        folder.mkdir(parents=True)
        torch.save(dict(meta=dict(iter=3), message_hub={}, optimizer={}, state_dict={}), folder / 'epoch_1.pth')
    (work_dir / 'last_checkpoint').write_text('epoch_1.pth')
    for out_dir, expected in ((None, work_dir), (str(work_dir), work_dir), (str(other), other / 'run')):
        hook = dict(type='CheckpointHook', out_dir=out_dir)
        cfg = Config(dict(work_dir=str(work_dir), default_hooks=dict(checkpoint=hook)))
        assert checkpoint_to_resume(parser, cfg) == str(expected / 'epoch_1.pth')


LAUNCHER = """
import os, subprocess, sys, time
os.environ['MMETRIS_LAUNCHER'] = str(os.getpid())
subprocess.Popen([sys.executable, '-c', sys.argv[1]])
time.sleep(60)
"""
LAUNCHED = """
import threading
from mmetris.utils.command_line import end_with_launcher
end_with_launcher(interval=0.05)
print('waits', flush=True)
threading.Event().wait(60)
"""


@pytest.mark.processes
def test_a_process_ends_when_its_launcher_is_killed():
    """Whatever it waits for: here an event that nobody sets, in a training the other processes."""
    pipe = subprocess.PIPE
    launcher = subprocess.Popen(
        [sys.executable, '-c', LAUNCHER, LAUNCHED], cwd=ROOT, stdout=pipe, stderr=pipe, text=True
    )
    assert launcher.stdout.readline() == 'waits\n'
    launcher.kill()
    # The pipe ends with the last process that has it.
    assert f'The launcher (process {launcher.pid}) is gone' in launcher.communicate(timeout=300)[1]


def test_the_launcher_tells_its_number_to_its_processes():
    """By the name that they look for; the tool imports nothing of the package."""
    assert f"os.environ['{LAUNCHER_VARIABLE}']" in (ROOT / 'tools/misc/launch_processes.py').read_text()


def test_weights_that_are_not_finite_are_refused_before_anything_is_built(parser, tmp_path, capsys):
    path = tmp_path / 'nan.pth'
    torch.save(dict(state_dict=dict(a=torch.ones(2), b=torch.tensor([1, float('nan')]))), path)
    with pytest.raises(SystemExit):
        check_checkpoint(parser, str(path), '--resume')
    assert f'--resume: {path} holds weights that are NaN or infinite: b.' in capsys.readouterr().err
    torch.save(dict(state_dict={'layers.0.attn_mask': torch.full((2, 2), float('-inf'))}), path)
    check_checkpoint(parser, str(path), '--resume')
