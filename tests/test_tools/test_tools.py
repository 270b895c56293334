"""The tools as users call them: real processes, real files, a toy model on Shapes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmetris.datasets.shapes import ShapesSpec, write_shapes
from mmetris.utils.work_folder import held
from tests import toy
from tests.quiet_start import assert_quiet
from tests.warm_process import run_script

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / 'tools'
# 3 sentences for each of 3 to 6 objects an image: numbers that two processes and batches of 4 do not divide.
SPEC = ShapesSpec(num_train=4, num_val=2, num_test_a=1, num_test_b=1)

CONFIG = f"""
_base_ = {str(ROOT / 'configs' / 'etris' / 'etris_tiny_shapes.py')!r}

model = dict(_delete_=True, **{toy.model_cfg('vit')!r})
source = dict(data_root=DATA_ROOT)
train_dataloader = dict(batch_size=4, dataset=source)
val_dataloader = dict(batch_size=4, dataset=source)
test_dataloader = dict(batch_size=4, dataset=source)
train_cfg = dict(max_epochs=2, val_interval=1)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=-1))
"""


def run(*command, code: int = 0, cwd: Path = ROOT, timeout: float = 900, fresh: bool = False, **variables: str) -> str:
    """Run a command to its end, at most ``timeout`` seconds, and return what it printed; fail unless it ends with
    ``code``, and if a tool of ours prints what packages say at every start.

    Scripts of this checkout are forked from a process that has imported the packages, unless they are to be ``fresh``.
    """
    env = {key: value for key, value in os.environ.items() if key not in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')}
    # The same on machines with and without a GPU.
    env.update(PYTHON=sys.executable, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='-1', **variables)
    command = [str(part) for part in command]
    if command[0].endswith('.py'):
        is_ours = '.mim' not in command[0] and ROOT in Path(command[0]).resolve().parents
        done = run_script(*command, cwd=cwd, env=env, timeout=timeout, merge=True, fresh=fresh or not is_ours)
    else:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=env,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    assert done.returncode == code, f'{command} ended with {done.returncode}:\n{done.stdout[-6000:]}'
    if '.mim' not in ' '.join(command):  # MMSeg's own tools may be as loud as they are.
        assert_quiet(done.stdout)
    return done.stdout


@pytest.fixture(scope='module')
def config(tmp_path_factory) -> Path:
    """A config of a toy model on a few drawn images; its folder has a space in its name."""
    folder = tmp_path_factory.mktemp('some where') / 'a space'
    write_shapes(folder / 'shapes', SPEC)
    path = folder / 'toy_shapes.py'
    path.write_text(CONFIG.replace('DATA_ROOT', repr(f'{folder / "shapes"}/')))
    return path


@pytest.fixture(scope='module')
def trained(config) -> tuple[Path, str]:
    """Work folder and output of two epochs on two processes, started from another folder."""
    work = config.parent / 'trained'
    output = run('bash', TOOLS / 'dist_train.sh', config, 2, '--work-dir', work, cwd=config.parent)
    return work, output


@pytest.fixture(scope='module')
def tested(config, trained) -> tuple[Path, str]:
    """Work folder and output of a test on two processes, with masks and pictures."""
    work, elsewhere = config.parent / 'tested', config.parent / 'elsewhere'
    elsewhere.mkdir()
    output = run(
        'bash',
        TOOLS / 'dist_test.sh',
        config,
        trained[0] / 'epoch_2.pth',
        2,
        '--work-dir',
        work,
        '--out',
        work / 'masks',
        '--show-dir',
        'pictures',
        cwd=elsewhere,
    )
    # MMEngine exchanges results in .dist_test; pictures belong into the work folder.
    assert {path.name for path in elsewhere.iterdir()} <= {'.dist_test'}
    return work, output


def sentences(config: Path) -> dict[str, int]:
    """Number of sentences of each split, from the files."""
    import pickle

    refs = pickle.loads((config.parent / 'shapes' / 'refcoco' / 'refs(unc).p').read_bytes())
    return {
        split: sum(len(ref['sentences']) for ref in refs if ref['split'] == split)
        for split in ('train', 'val', 'testA', 'testB')
    }


def scores_of(output: str) -> dict[str, dict[str, float]]:
    """The closing lines of tools/test.py as split -> name -> score."""
    lines = re.findall(r'^(val|testA|testB): (oIoU .*)$', output, re.MULTILINE)
    return {split: {word.split()[0]: float(word.split()[1]) for word in words.split(', ')} for split, words in lines}


@pytest.mark.processes
def test_training_on_two_processes_logs_checkpoints_and_scores_every_sentence(config, trained):
    work, output = trained
    assert 'No CUDA device: 2 processes on the CPU, joined over gloo' in output
    assert 'tunable and frozen parameters' in output
    assert re.search(r'Epoch\(train\) +\[2\].*eta.*loss', output)
    assert f'samples: {sentences(config)["val"]}' in output
    assert (work / 'epoch_2.pth').is_file() and list(work.glob('best_mIoU_epoch_*.pth'))


@pytest.mark.processes
def test_only_tuned_weights_change_in_training(trained):
    first, second = (
        torch.load(trained[0] / f'epoch_{epoch}.pth', weights_only=False)['state_dict'] for epoch in (1, 2)
    )
    moved = {key for key, value in second.items() if not torch.equal(value, first[key])}
    assert any(key.startswith('neck') for key in moved) and any(key.startswith('decode_head') for key in moved)
    assert not [key for key in moved if key.startswith(('backbone', 'text_encoder'))]


@pytest.mark.processes
def test_a_resumed_run_equals_an_uninterrupted_one(config, trained):
    work = config.parent / 'resumed'
    run(
        'bash',
        TOOLS / 'dist_train.sh',
        config,
        2,
        '--work-dir',
        work,
        '--resume',
        '--cfg-options',
        'train_cfg.max_epochs=1',
    )
    output = run('bash', TOOLS / 'dist_train.sh', config, 2, '--work-dir', work, '--resume')
    assert 'resumed epoch: 1' in output
    whole, resumed = (
        torch.load(folder / 'epoch_2.pth', weights_only=False)['state_dict'] for folder in (trained[0], work)
    )
    assert whole.keys() == resumed.keys()
    assert not [key for key, value in whole.items() if not torch.equal(value, resumed[key])]


@pytest.mark.processes
def test_testing_scores_each_split_once_under_its_name(config, tested):
    work, output = tested
    scores = scores_of(output)
    assert list(scores) == ['val', 'testA', 'testB']
    assert {split: score['samples'] for split, score in scores.items()} == {
        split: count for split, count in sentences(config).items() if split != 'train'
    }
    dumped = json.loads(next(work.glob('*/*.json')).read_text())
    assert dumped['testB/mIoU'] == pytest.approx(scores['testB']['mIoU'], abs=0.01)


@pytest.mark.processes
def test_the_scores_in_training_are_those_of_the_saved_checkpoint(trained, tested):
    """Each process evaluates its share with its own BatchNorm statistics; the checkpoint has the first one's."""
    logged = re.findall(r'Epoch\(val\) \[2\].* oIoU: ([\d.]+) +mIoU: ([\d.]+)', trained[1])[-1]
    scores = scores_of(tested[1])['val']
    assert [float(value) for value in logged] == pytest.approx([scores['oIoU'], scores['mIoU']], abs=0.006)


@pytest.mark.processes
def test_every_sentence_gets_a_mask_and_a_picture(config, tested):
    work, _ = tested
    counts = sentences(config)
    for split in ('val', 'testA', 'testB'):
        masks = list((work / 'masks' / split).glob('*.png'))
        assert len(masks) == counts[split]
    image = next((config.parent / 'shapes' / 'train2014').glob(f'{masks[0].stem.rsplit("_", 1)[0]}.jpg'))
    assert Image.open(masks[0]).size == Image.open(image).size
    assert len(list(work.glob('*/pictures/*.png'))) == counts['val'] + counts['testA'] + counts['testB']


@pytest.mark.processes
def test_one_process_scores_what_two_do_and_other_splits_can_be_named(config, trained, tested):
    output = run(
        TOOLS / 'test.py',
        config,
        trained[0] / 'epoch_2.pth',
        '--split',
        'testB',
        '--split',
        'val',
        '--work-dir',
        config.parent / 'one',
    )
    scores = scores_of(output)
    assert list(scores) == ['testB', 'val']
    for split, named in scores.items():
        assert named == pytest.approx(scores_of(tested[1])[split], abs=0.02)


@pytest.mark.processes
def test_weights_that_do_not_fit_are_not_tested(config, trained, tmp_path):
    """Without its decoder a model would score what random numbers score."""
    content = torch.load(trained[0] / 'epoch_2.pth', weights_only=False)
    state = content['state_dict']
    content['state_dict'] = {key: value for key, value in state.items() if not key.startswith('decode_head.')}
    torch.save(content, tmp_path / 'half.pth')
    output = run(TOOLS / 'test.py', config, tmp_path / 'half.pth', '--work-dir', tmp_path, code=1)
    assert 'half.pth does not fit the model of the config' in output.splitlines()[-2] + output.splitlines()[-1]
    assert 'decode_head.' in output and 'Traceback' not in output


def test_the_best_checkpoint_has_no_state_to_resume(config, trained, tmp_path):
    (best,) = trained[0].glob('best_mIoU_epoch_*.pth')
    output = run(TOOLS / 'train.py', config, '--work-dir', tmp_path, '--resume', best, code=2)
    assert 'holds weights without the state of a training' in output and f'load_from={best}' in output


def test_two_trainings_do_not_mix_in_one_folder(config, trained, tmp_path):
    work = tmp_path / 'work'
    shutil.copytree(trained[0], work)
    output = run(TOOLS / 'train.py', config, '--work-dir', work, code=2)
    assert 'holds a training: go on with --resume' in output
    (best,) = work.glob('best_*.pth')
    own = ['--cfg-options', f'load_from={best}']
    assert f'--overwrite would remove {best}' in run(
        TOOLS / 'train.py', config, '--work-dir', work, '--overwrite', *own, code=2
    )
    before = sorted(path.name for path in work.iterdir())
    with held(work):
        assert f'process {os.getpid()} trains into it' in run(
            TOOLS / 'train.py', config, '--work-dir', work, '--resume', code=2
        )
    assert sorted(path.name for path in work.iterdir()) == before
    run(TOOLS / 'train.py', config, '--work-dir', work, '--overwrite', '--cfg-options', 'train_cfg.max_epochs=1')
    assert [path.name for path in work.glob('epoch_*.pth')] == ['epoch_1.pth'] and not (work / '.in_use').exists()


def test_augmented_testing_runs(config, trained):
    output = run(
        TOOLS / 'test.py',
        config,
        trained[0] / 'epoch_2.pth',
        '--tta',
        '--split',
        'testA',
        '--work-dir',
        config.parent / 'tta',
    )
    assert scores_of(output)['testA']['samples'] == sentences(config)['testA']


@pytest.mark.processes
def test_a_cpu_trains_and_tests_in_bfloat16(config, trained, tested):
    """With gradients of two batches for a step; a test in bfloat16 scores nearly what one in float32 does."""
    work = config.parent / 'bfloat16'
    output = run(
        TOOLS / 'train.py',
        config,
        '--work-dir',
        work,
        '--amp-dtype',
        'bfloat16',
        '--cfg-options',
        'train_cfg.max_epochs=1',
        'optim_wrapper.accumulative_counts=2',
        'default_hooks.logger.interval=1',
    )
    assert "type='mmetris.BFloat16OptimWrapper'" in output
    assert re.findall(r'Epoch\(train\) .* loss: (\S+)', output)
    state = torch.load(work / 'epoch_1.pth', weights_only=False)['state_dict']
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float32}
    output = run(
        TOOLS / 'test.py',
        config,
        trained[0] / 'epoch_2.pth',
        '--dtype',
        'bfloat16',
        '--split',
        'val',
        '--work-dir',
        work,
    )
    scores, expected = scores_of(output)['val'], scores_of(tested[1])['val']
    assert "test_cfg=dict(dtype='bfloat16')" in output
    assert scores == pytest.approx(expected, abs=3)


@pytest.mark.processes
def test_one_line_for_each_parameter_is_for_the_log_file(config, tmp_path):
    options = ['train_cfg.max_epochs=1', 'optim_wrapper.paramwise_cfg.norm_decay_mult=0']
    run(TOOLS / 'train.py', config, '--work-dir', tmp_path, '--cfg-options', *options)
    (log,) = tmp_path.glob('*/*.log')
    content = log.read_text()
    for part in ('decode_head', 'neck'):
        assert re.search(rf'paramwise_options -- {part}\.', content)
    assert 'backbone.' in content and 'is skipped since its requires_grad=False' in content
    assert 'FileClient' in content


@pytest.mark.processes
def test_types_are_for_models_that_heed_them(config, tmp_path):
    torch.save(dict(state_dict=dict(weight=torch.zeros(1))), tmp_path / 'any.pth')
    other = ROOT / 'configs' / 'bridger' / 'segformer_mit-b0_ade20k-512x512.py'
    output = run(TOOLS / 'test.py', other, tmp_path / 'any.pth', '--dtype', 'bfloat16', code=2, fresh=True)
    assert '--dtype is for a ReferringSegmentor or ClassNameSegmentor' in output and 'EncoderDecoder' in output


@pytest.mark.processes
def test_browse_dataset_writes_one_picture_for_each_sample(config):
    folder = config.parent / 'browse'
    run(TOOLS / 'misc' / 'browse_dataset.py', config, '--output-dir', folder, '--number', 3)
    pictures = sorted(folder.glob('*.png'))
    assert len(pictures) == 3
    run(TOOLS / 'misc' / 'contact_sheet.py', folder, config.parent / 'sheet.png', '--columns', 2)
    assert Image.open(config.parent / 'sheet.png').width > Image.open(pictures[0]).width


@pytest.mark.processes
@pytest.mark.parametrize('phase', ['val', 'test'])
def test_browse_dataset_shows_the_truth_of_evaluation_on_the_image_of_the_network(config, phase):
    """In testing masks are loaded after the resizing, at their own size."""
    folder = config.parent / f'browse_{phase}'
    options = ['--phase', phase, '--split', 'val', '--number', 2]
    run(TOOLS / 'misc' / 'browse_dataset.py', config, '--output-dir', folder, *options)
    for path in sorted(folder.glob('*.png')):
        picture = np.asarray(Image.open(path)).astype(int)
        orange = (abs(picture - (230, 159, 0)).sum(-1) < 30).any()  # the contour of a true mask
        assert orange, f'{path} has no mask'
    assert len(list(folder.iterdir())) == 2


@pytest.mark.processes
def test_count_parameters_prints_plain_integers():
    config = ROOT / 'configs' / 'etris' / 'etris_r101_refcoco.py'
    output = run(TOOLS / 'analysis_tools' / 'count_parameters.py', config, '--json')
    counts = json.loads(output.strip().split('\n')[-1])
    assert set(counts) == {'bridger', 'tuning', 'head', 'prompt', 'backbone_tunable', 'frozen', 'total'}
    assert all(type(count) is int for count in counts.values())
    assert counts['bridger'] == 1_942_080


@pytest.mark.processes
def test_print_config_shows_bases_and_overrides_resolved(config):
    copy = config.parent / 'whole.py'
    output = run(
        TOOLS / 'misc' / 'print_config.py',
        config,
        '--out',
        copy,
        '--cfg-options',
        'model.neck.dropout=0.25',
        fresh=True,
    )
    assert 'dropout=0.25' in output and '_base_' not in output
    assert 'dropout=0.25' in copy.read_text()


@pytest.mark.parametrize(
    'arguments, message',
    [
        (('dist_train.sh', 'no.py', 2), 'config file not found: no.py'),
        (('dist_train.sh', 'configs/etris/etris_tiny_shapes.py', 'two'), "must be a positive integer, not 'two'"),
        (('dist_train.sh', 'configs/etris/etris_tiny_shapes.py'), 'usage:'),
        (('dist_test.sh', 'configs/etris/etris_tiny_shapes.py', 'no.pth', 2), 'checkpoint file not found: no.pth'),
        (('slurm_train.sh', 'gpu', 'job', 'no.py'), 'config file not found: no.py'),
        (('slurm_test.sh', 'gpu', 'job', 'configs/etris/etris_tiny_shapes.py', 'no.pth'), 'checkpoint file not found'),
    ],
)
def test_launchers_stop_with_one_line_before_any_process_starts(arguments, message):
    output = run('bash', TOOLS / arguments[0], *arguments[1:], code=2)
    assert message in output and len(output.strip().split('\n')) == 1


@pytest.mark.parametrize(
    'script, arguments',
    [
        ('slurm_train.sh', ('part', 'job', 'configs/etris/etris_tiny_shapes.py', '--amp')),
        ('slurm_test.sh', ('part', 'job', 'configs/etris/etris_tiny_shapes.py', 'https://host/x.pth', '--tta')),
    ],
)
def test_slurm_launchers_hand_all_arguments_to_srun(script, arguments, tmp_path):
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    path = f'{tmp_path}:{os.environ["PATH"]}'
    output = run(
        'bash', TOOLS / script, *arguments, PATH=path, GPUS='4', GPUS_PER_NODE='2', SRUN_ARGS='--qos=high --time=1'
    ).split('\n')
    assert {'--partition=part', '--job-name=job', '--ntasks=4', '--gres=gpu:2', '--qos=high', '--time=1'} <= set(output)
    assert output[output.index(arguments[2]) :] == [*arguments[2:], '--launcher', 'slurm', '']


def test_scripts_are_executable():
    scripts = [*TOOLS.glob('dist_*.sh'), *TOOLS.glob('slurm_*.sh'), ROOT / '.ci' / 'run']
    assert all(os.access(path, os.X_OK) for path in scripts)


class Evil:
    """Pickles to a call that leaves a trace."""

    def __reduce__(self):
        return os.mkdir, ('executed',)


@pytest.mark.parametrize('spoil', ['code', 'cut'])
def test_a_malicious_or_damaged_checkpoint_is_refused_and_not_run(config, tmp_path, spoil):
    torch.save(dict(state_dict=dict(weight=Evil() if spoil == 'code' else torch.zeros(9999))), tmp_path / 'bad.pth')
    if spoil == 'cut':
        (tmp_path / 'bad.pth').write_bytes((tmp_path / 'bad.pth').read_bytes()[:-3000])
    for command in (
        [TOOLS / 'test.py', config, tmp_path / 'bad.pth'],
        [TOOLS / 'train.py', config, '--resume', tmp_path / 'bad.pth'],
        [TOOLS / 'train.py', config, '--cfg-options', f'load_from={tmp_path / "bad.pth"}'],
    ):
        output = run(*command, '--work-dir', tmp_path / 'work', code=2, cwd=tmp_path)
        assert 'bad.pth cannot be read' in output and 'Traceback' not in output
    assert not (tmp_path / 'executed').exists()


def test_models_are_imported_without_a_warning_of_ops_that_nobody_uses():
    assert 'MultiScaleDeformableAttention' not in run(sys.executable, '-c', 'import mmetris.models')
