"""What is kept off the screen by name, and that everything else passes."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import warnings

import pytest

from mmetris.utils import quiet

PARAMWISE = 'paramwise_options -- neck.weight:lr=0.1'
INIT_INFO = '\nneck.weight - torch.Size([4, 4]): \nXavierInit \n '
FAULT = 'unexpected keys in the checkpoint: paramwise_options -- neck.weight'


@pytest.fixture
def logger(tmp_path):
    """A logger with a screen and a file, and functions that tell what each got."""
    screen, log = io.StringIO(), tmp_path / 'run.log'
    logger = logging.Logger('run')
    logger.addHandler(logging.StreamHandler(screen))
    logger.addHandler(logging.FileHandler(log))
    return logger, screen.getvalue, log.read_text


@pytest.mark.parametrize(
    'line',
    [
        PARAMWISE,
        'backbone.tower.conv1.weight is skipped since its requires_grad=False',
        INIT_INFO,
        '\nlogit_scale - torch.Size([]): \nThe value is the same before and after calling `init_weights` \n ',
        '"FileClient" will be deprecated in future. Please use io functions in https://mmengine.readthedocs.io',
        '"HardDiskBackend" is the alias of "LocalBackend" and the former will be deprecated in future.',
        'The prefix is not set in metric class RefSegMetric.',
    ],
)
def test_a_line_of_every_start_goes_to_the_file_only(logger, line):
    log, screen, file = logger
    quiet.quiet_screen(log)
    log.info(line)
    log.warning(line)
    assert screen() == '' and file().count(line.strip()) == 2


@pytest.mark.parametrize(
    'line', [FAULT, 'Epoch(train) [1][50/100]', 'neck.weight is skipped', 'neck - torch.Size([4])']
)
def test_other_lines_pass(logger, line):
    log, screen, _ = logger
    quiet.quiet_screen(log)
    log.warning(line)
    assert line in screen()


def test_an_error_passes_whatever_it_says(logger):
    log, screen, _ = logger
    quiet.quiet_screen(log)
    log.error(PARAMWISE)
    assert PARAMWISE in screen()


def test_a_screen_gets_one_filter_however_often_it_is_asked_for(logger):
    log, _, _ = logger
    quiet.quiet_screen(log)
    quiet.quiet_screen(log)
    assert [len(handler.filters) for handler in log.handlers] == [1, 0]


def test_a_block_is_quiet_and_what_follows_is_not(logger):
    log, screen, _ = logger
    with pytest.raises(ValueError, match='inside'), quiet.quieted(log):
        log.info(PARAMWISE)
        raise ValueError('inside')
    assert screen() == ''
    log.info(PARAMWISE)
    assert PARAMWISE in screen()


def test_warnings_are_known_by_their_words():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        quiet.hide_warnings()
        warnings.warn(
            'Setting MKL_NUM_THREADS environment variable for each process to be 1 in default, to', stacklevel=1
        )
        warnings.warn(
            '`broadcast_buffers` is deprecated. Use `forward_sync_buffers` instead.', FutureWarning, stacklevel=1
        )
        warnings.warn(
            'Both `broadcast_buffers` and `forward_sync_buffers` were specified.', FutureWarning, stacklevel=1
        )
        warnings.warn('Multi-processing start method `fork` is different', stacklevel=1)
    assert [str(one.message).split()[0] for one in seen] == ['Both', 'Multi-processing']


@pytest.mark.parametrize('installed', [(), ('onedl',), ('mmpretrain', 'onedl')])
def test_the_line_of_a_missing_package_is_dropped_unless_the_package_is_there(monkeypatch, capsys, installed):
    monkeypatch.setattr(quiet, 'find_spec', lambda name: object() if name in installed else None)
    with quiet.without_onedl_line():
        print('before')
        print('Could not import OneDL')
        print('Could not import OneDL, for another reason')
        print('after', end='')
    printed = capsys.readouterr().out
    dropped = 'Could not import OneDL\n' if len(installed) == 2 else ''
    assert printed == f'before\n{dropped}Could not import OneDL, for another reason\nafter'


def test_a_logger_that_is_made_meanwhile_keeps_writing(capsys):
    with quiet.without_onedl_line():
        log = logging.Logger('run')
        log.addHandler(logging.StreamHandler(sys.stdout))
    log.warning('a fault')
    assert capsys.readouterr().out == 'a fault\n'


@pytest.mark.parametrize('program', ['import mmetris.datasets', 'import mmetris.datasets.transforms.loading'])
def test_our_data_sets_are_imported_in_silence_and_mmsegs_are_there(program):
    program += "\nfrom mmseg.registry import DATASETS\nassert 'ADE20KDataset' in DATASETS.module_dict"
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
