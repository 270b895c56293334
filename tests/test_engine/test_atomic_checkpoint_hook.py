"""Kills at every step of saving, full disks, moved folders: real runs of MMEngine's Runner in real processes."""

from __future__ import annotations

import json
import os
import resource
import runpy
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook, Hook
from torch import distributed

from mmetris.engine.hooks import AtomicCheckpointHook
from mmetris.utils.checkpoint_io import CheckpointNotSavedError, read_checkpoint
from mmetris.utils.command_line import end_on_signals, use_atomic_checkpoints
from mmetris.utils.work_folder import find_resumable
from tests.forked_process import kill_test
from tests.toy_checkpoints import SCORES, STEPS, build_runner

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module', autouse=True)
def _no_description_of_the_machine():
    """It is asked for at each start and takes most of these runs' time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmengine.runner.runner.collect_env', dict)
        yield


def train(work_dir, **kwargs):
    """Train in this process; returns the weights."""
    runner = build_runner(work_dir, **kwargs)
    runner.train()
    return {key: value.clone() for key, value in runner.model.state_dict().items()}


def train_in_child(work_dir, victim=None, **kwargs):
    """Train in a process of its own; returns whether it ended well."""
    kwargs.setdefault('name', work_dir.name)
    return kill_test.wait(
        kill_test.start(lambda: build_runner(work_dir, **kwargs).train(), Path(f'{work_dir}.log'), victim=victim)
    )


def assert_same_end(work_dir, expected, by_epoch=True):
    """The weights, and everything that is said about the best checkpoint."""
    names = {path.name for path in work_dir.iterdir() if path.is_file() and path.suffix != '.py'}
    last, best = ('epoch_4.pth', 'best_mIoU_epoch_4.pth') if by_epoch else ('iter_8.pth', 'best_mIoU_iter_8.pth')
    assert names == {last, best, 'last_checkpoint', 'validation_scores.json'}
    saved = read_checkpoint(work_dir / last)
    assert all(torch.equal(value, expected[key]) for key, value in saved['state_dict'].items())
    info = saved['message_hub']['runtime_info']
    assert info['best_score'] == max(SCORES) and Path(info['best_ckpt']).name == best
    best = read_checkpoint(work_dir / best)
    assert best['message_hub']['runtime_info']['best_score'] == max(SCORES)
    assert best['state_dict']['steps'] == STEPS * (1 + SCORES.index(max(SCORES)))
    scores = json.loads((work_dir / 'validation_scores.json').read_text())
    assert scores == {str(STEPS * (index + 1)): dict(mIoU=score, lowest=score) for index, score in enumerate(SCORES)}
    logged = {
        line['step']: line['mIoU']
        for file in work_dir.glob('*/vis_data/scalars.json')
        for line in map(json.loads, file.read_text().splitlines())
        if 'mIoU' in line
    }
    assert sorted(logged.values()) == sorted(SCORES)


@pytest.fixture(scope='module', params=[True, False], ids=['epochs', 'iterations'])
def whole(request, tmp_path_factory):
    """An undisturbed run: its weights and its accesses to files."""
    folder = tmp_path_factory.mktemp('whole')
    steps = folder / 'steps.txt'
    assert train_in_child(folder / 'run', lambda: kill_test.Victim(steps), by_epoch=request.param)
    name = 'epoch_4.pth' if request.param else 'iter_8.pth'
    weights = read_checkpoint(folder / 'run' / name)['state_dict']
    assert_same_end(folder / 'run', weights, request.param)
    return request.param, weights, steps.read_text().splitlines()


def test_a_checkpoint_is_written_aside_synced_renamed_named_and_then_the_old_one_goes(whole):
    by_epoch, _, steps = whole
    new, old = ('epoch_3.pth', 'epoch_2.pth') if by_epoch else ('iter_6.pth', 'iter_4.pth')
    aside = f'.{new}.unfinished'
    after = steps[steps.index(f'open {aside}') :]
    assert after[: after.index(f'os.remove {old}') + 1] == [
        f'open {aside}',
        f'fsync {aside}',
        f'os.rename {aside}',
        'fsync run',
        'open .last_checkpoint.unfinished',
        'fsync .last_checkpoint.unfinished',
        'os.rename .last_checkpoint.unfinished',
        'fsync run',
        f'os.remove {old}',
    ]


@pytest.mark.processes
@pytest.mark.parametrize('half', [False, True], ids=['before', 'half_written'])
def test_a_kill_at_any_step_of_saving_loses_nothing(whole, half, tmp_path):
    """At some steps here, other ones for each kind of training; tools/dev/kill_test.py takes all."""
    by_epoch, weights, steps = whole
    numbers = [number for number, step in enumerate(steps) if not half or step.startswith('fsync .')]
    if os.environ.get('MMETRIS_ALL_KILLS') != '1':
        numbers = numbers[by_epoch :: len(numbers) // (3 if half else 6)]
    for number in numbers:
        work_dir = tmp_path / str(number)
        log = tmp_path / 'steps.txt'
        assert not train_in_child(work_dir, partial(kill_test.Victim, log, number, half), by_epoch=by_epoch)
        log.unlink(missing_ok=True)
        assert train_in_child(work_dir, by_epoch=by_epoch, resume=True), Path(f'{work_dir}.log').read_text()
        assert_same_end(work_dir, weights, by_epoch)
    print(f'{len(numbers)} kills')


def test_mmengines_own_hook_loses_all_by_such_a_kill(tmp_path):
    """What the tests above would see: the old checkpoint is gone before the new one is whole."""
    hook = AtomicCheckpointHook._save_checkpoint_with_step
    try:
        AtomicCheckpointHook._save_checkpoint_with_step = CheckpointHook._save_checkpoint_with_step
        log = tmp_path / 'steps.txt'
        assert train_in_child(tmp_path / 'run', lambda: kill_test.Victim(log))
        removed = log.read_text().splitlines().index('os.remove epoch_1.pth')
        assert not train_in_child(tmp_path / 'killed', lambda: kill_test.Victim(log, removed + 1))
    finally:
        AtomicCheckpointHook._save_checkpoint_with_step = hook
    with pytest.raises(ValueError, match='no other whole checkpoint'):
        find_resumable(tmp_path / 'killed')


@pytest.fixture(scope='module')
def half_way(tmp_path_factory):
    """A run of two epochs."""
    folder = tmp_path_factory.mktemp('half_way')
    train(folder / 'run', epochs=2)
    return folder / 'run'


def test_a_moved_and_a_copied_folder_go_on_from_the_file_in_them(half_way, tmp_path):
    expected = train(tmp_path / 'whole')
    copied, moved = tmp_path / 'copied', tmp_path / 'moved'
    shutil.copytree(half_way, copied)
    before = sorted(half_way.iterdir())
    train(copied, resume=True)
    assert_same_end(copied, expected)
    assert sorted(half_way.iterdir()) == before  # MMEngine would remove the original's best checkpoint.
    shutil.copytree(half_way, tmp_path / 'original')
    (tmp_path / 'original').rename(moved)
    text = (moved / 'last_checkpoint').read_text()
    (moved / 'last_checkpoint').write_text(text.replace(str(half_way), str(tmp_path / 'original')))
    train(moved, resume=True)
    assert_same_end(moved, expected)


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_resuming_takes_the_newest_whole_checkpoint_and_says_so(half_way, tmp_path):
    folder = tmp_path / 'run'
    train(folder, epochs=3, max_keep_ckpts=-1)
    newest = folder / 'epoch_3.pth'
    said = []
    assert find_resumable(folder, say=said.append) == newest and not said
    (folder / 'last_checkpoint').unlink()
    assert find_resumable(folder, say=said.append) == newest
    assert said == [
        f'{folder}/last_checkpoint is not there; the newest whole checkpoint of {folder} is taken: epoch_3.pth'
    ]
    (folder / 'last_checkpoint').write_text(str(newest))
    damage(newest)
    said.clear()
    assert find_resumable(folder, say=said.append) == folder / 'epoch_2.pth'
    assert 'the checksum of' in said[0] and str(newest) in said[0] and 'epoch_2.pth' in said[1]
    shutil.copy(folder / 'epoch_1.pth', folder / 'epoch_9.pth')  # Saved earlier, whatever it is called.
    assert find_resumable(folder, say=said.append).name == 'epoch_2.pth'
    (folder / 'epoch_2.pth').unlink()
    newest.unlink()
    said.clear()
    assert find_resumable(folder, say=said.append).name in ('epoch_1.pth', 'epoch_9.pth')
    assert 'is not there' in said[0]
    for name in ('epoch_1.pth', 'epoch_9.pth'):
        damage(folder / name)
    with pytest.raises(ValueError, match='no other whole checkpoint is in'):  # The best one has no optimizer's state.
        find_resumable(folder)
    assert find_resumable(tmp_path / 'none') is None


def test_the_resumed_run_goes_on_from_the_older_one_where_the_newest_is_damaged(tmp_path):
    expected = train(tmp_path / 'whole')
    folder = tmp_path / 'run'
    train(folder, epochs=3, max_keep_ckpts=2)
    damage(folder / 'epoch_3.pth')
    train(folder, resume=True)
    assert_same_end(folder, expected)


@pytest.mark.parametrize('harm', [Path.unlink, damage])
def test_a_best_score_without_its_file_is_given_up_and_its_validation_made_up(tmp_path, harm):
    folder = tmp_path / 'run'
    train(folder, epochs=2, name=f'to_harm_{harm.__name__}')
    best = folder / 'best_mIoU_epoch_2.pth'
    harm(best)
    expected = train(tmp_path / 'whole')
    train(folder, resume=True, name=f'lost_{harm.__name__}')
    assert_same_end(folder, expected)
    log = sorted(folder.glob('*/*.log'))[-1].read_text()
    assert 'The best checkpoint, with 0.6400 mIoU, is lost' in log and 'made up for now' in log
    assert 'The best checkpoint with 0.6400 mIoU at 2 epoch is saved to best_mIoU_epoch_2.pth' in log


def test_a_best_checkpoint_that_no_other_knows_of_counts_by_its_own_score(half_way, tmp_path):
    """Killed after epoch 2's best one was in place, before epoch 2 was saved with its score."""
    folder = tmp_path / 'run'
    shutil.copytree(half_way, folder)
    saved = read_checkpoint(folder / 'epoch_2.pth')
    saved['message_hub']['runtime_info'] |= dict(best_score=0.016, best_ckpt=str(folder / 'best_mIoU_epoch_1.pth'))
    torch.save(saved, folder / 'epoch_2.pth')
    saved['message_hub']['runtime_info']['best_score'] = 0.016
    saved['meta'] |= dict(epoch=1, iter=STEPS)
    torch.save(saved, folder / 'best_mIoU_epoch_1.pth')
    expected = train(tmp_path / 'whole')
    train(folder, epochs=2, resume=True, name='adopted')
    assert {path.name for path in folder.glob('*.pth')} == {'epoch_2.pth', 'best_mIoU_epoch_2.pth'}
    info = read_checkpoint(folder / 'epoch_2.pth')['message_hub']['runtime_info']
    assert (info['best_score'], Path(info['best_ckpt']).name) == (0.64, 'best_mIoU_epoch_2.pth')
    train(folder, resume=True, name='after_adopted')
    assert_same_end(folder, expected)


def limited(work_dir, number_of_bytes):
    """Train in this process, whose files may be so large from the third epoch on."""
    runner = build_runner(work_dir, name=f'{work_dir.name}_limited')

    class LimitHook(Hook):
        def before_train_epoch(self, runner):
            if runner.epoch == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (number_of_bytes, number_of_bytes))

    runner.register_hook(LimitHook())
    runner.train()


@pytest.mark.processes
def test_a_full_disk_is_one_clear_error_after_which_the_run_resumes(tmp_path):
    """The system refuses to write more of the file, as a full disk does."""
    expected = train(tmp_path / 'whole')
    folder = tmp_path / 'run'
    assert not kill_test.wait(kill_test.start(lambda: limited(folder, 60_000), tmp_path / 'run.log'))
    assert (folder / 'last_checkpoint').read_text() == str(folder / 'epoch_2.pth')
    assert {path.name for path in folder.glob('*.pth')} == {'epoch_2.pth', 'best_mIoU_epoch_2.pth'}
    assert not list(folder.glob('.*'))
    error = (tmp_path / 'run.log').read_text().strip().splitlines()[-1]
    assert f'{folder}/epoch_3.pth was not saved: File too large' in error
    assert 'MiB are free' in error and 'are as they were: make room and go on with --resume' in error
    train(folder, resume=True, name='after_full_disk')
    assert_same_end(folder, expected)


@end_on_signals()
def signalled(work_dir, number, where):
    """Train as tools/train.py does, and get a signal in the third epoch, in training or while a file is written.

    Or where a package turns everything that is raised into an error of its own, as MMEngine does in ``pretty_text``.
    """
    runner = build_runner(work_dir, name=f'{work_dir.name}_signalled')
    fsync = os.fsync

    def send(handle):
        if '.epoch_3.pth' in os.readlink(f'/proc/self/fd/{handle}'):
            os.kill(os.getpid(), number)
        fsync(handle)

    class SignalHook(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.epoch == 2 and where != 'saving':
                try:
                    os.kill(os.getpid(), number)
                    time.sleep(1)
                except BaseException:
                    if where == 'caught':
                        raise SyntaxError('a page of text') from None
                    raise

    if where == 'saving':
        os.fsync = send
    runner.register_hook(SignalHook())
    runner.train()


@pytest.mark.processes
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize('where', ['training', 'caught', 'saving'])
def test_a_signal_ends_the_run_with_one_line_and_it_resumes(number, where, tmp_path):
    folder, log = tmp_path / 'run', tmp_path / 'run.log'
    assert not kill_test.wait(kill_test.start(lambda: signalled(folder, number, where), log))
    after = log.read_text().rpartition('Saving checkpoint at 3 epochs' if where == 'saving' else '[3][')[2]
    lines = [line for line in after.strip().splitlines()[-2:] if 'mmengine' not in line]
    assert lines[-1:] == [f'{number.name}: training ends; --resume goes on from the last checkpoint']
    assert 'Error' not in log.read_text() and 'Traceback' not in log.read_text() and not list(folder.glob('.*'))
    assert find_resumable(folder) == folder / 'epoch_2.pth'


def run_tool(monkeypatch, *arguments):
    monkeypatch.setattr('sys.argv', ['train.py', *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / 'tools/train.py'), run_name='__main__')
    return stopped.value.code


@pytest.mark.parametrize(
    'error, line',
    [
        (CheckpointNotSavedError('epoch_3.pth was not saved'), 'error: epoch_3.pth was not saved\n'),
        (
            OSError(28, 'No space left on device'),
            'error: [Errno 28] No space left on device. The checkpoints are as they',
        ),
    ],
)
def test_the_train_tool_says_in_one_line_what_could_not_be_saved_or_resumed(error, line, monkeypatch, capsys, tmp_path):
    class FullDisk:
        log_dir = 'logs'

        def register_hook(self, hook, priority):
            pass

        def train(self):
            raise error

    config = ROOT / 'configs/etris/etris_tiny_shapes.py'
    monkeypatch.setattr('mmetris.utils.starting.build_runner', lambda cfg: FullDisk())
    assert run_tool(monkeypatch, config, '--work-dir', tmp_path) == 1
    began, said = capsys.readouterr().err.splitlines()
    assert began.startswith('Reading data and weights') and f'{said}\n'.startswith(line)
    (tmp_path / 'last_checkpoint').write_text('gone/epoch_3.pth')
    assert run_tool(monkeypatch, config, '--work-dir', tmp_path, '--resume') == 2
    assert f'epoch_3.pth is not there; no other whole checkpoint is in {tmp_path}' in capsys.readouterr().err


class SharedRunner:
    """Saves as DeepSpeed and sharded FSDP do: a folder, into which each process writes its part."""

    work_dir = ''

    def __init__(self, failing):
        self.failing = failing

    def save_checkpoint(self, out_dir, filename, file_client_args, **kwargs):
        rank = distributed.get_rank()
        if rank == self.failing:
            raise OSError(28, 'No space left on device')
        (Path(out_dir) / filename).mkdir(exist_ok=True)
        torch.save(dict(rank=rank), Path(out_dir) / filename / f'rank{rank}.pth')


def save_shared(folder, failing):
    distributed.init_process_group('gloo')
    hook = AtomicCheckpointHook(interval=1)
    hook.out_dir = str(folder)
    hook.file_backend = LocalBackend()
    for _ in range(2):  # The second takes the first one's place.
        hook._save(SharedRunner(None), 'epoch_1.pth')
    try:
        hook._save(SharedRunner(failing), 'epoch_1.pth')
    except CheckpointNotSavedError as error:
        print(f'process {distributed.get_rank()}: {error}', flush=True)
    distributed.barrier()


@pytest.mark.processes
def test_a_folder_of_all_processes_is_replaced_whole_or_not_at_all(tmp_path):
    log = tmp_path / 'log'
    folder = tmp_path / 'run'
    folder.mkdir()
    assert kill_test.wait(kill_test.start(lambda: save_shared(folder, failing=1), log, processes=2)), log.read_text()
    assert {path.name for path in folder.iterdir()} == {'epoch_1.pth'}
    assert {path.name for path in (folder / 'epoch_1.pth').iterdir()} == {'rank0.pth', 'rank1.pth'}
    for rank in range(2):  # Both end; none waits for the other.
        assert f'process {rank}: {folder}/epoch_1.pth was not saved: No space left on device' in log.read_text()


def test_a_folder_killed_between_its_two_names_is_found(tmp_path):
    folder = tmp_path / '.epoch_1.pth.outdated.unfinished'
    folder.mkdir()
    torch.save({}, folder / 'rank0.pth')
    (tmp_path / 'last_checkpoint').write_text('elsewhere/epoch_1.pth')
    assert find_resumable(tmp_path) == tmp_path / 'epoch_1.pth'


@pytest.mark.parametrize(
    'hooks, expected',
    [
        (None, dict(type='mmetris.AtomicCheckpointHook', interval=1)),
        (
            dict(checkpoint=dict(type='CheckpointHook', interval=4000)),
            dict(type='mmetris.AtomicCheckpointHook', interval=4000),
        ),
        (dict(checkpoint=dict(type=CheckpointHook)), dict(type='mmetris.AtomicCheckpointHook')),
        (dict(checkpoint=dict(type='MyHook')), dict(type='MyHook')),
        (dict(checkpoint=None), None),
    ],
)
def test_the_train_tool_takes_it_where_a_config_has_mmengines(hooks, expected):
    cfg = Config({} if hooks is None else dict(default_hooks=ConfigDict(hooks)))
    use_atomic_checkpoints(cfg)
    assert cfg.default_hooks.checkpoint == expected


def test_several_best_scores_each_keep_their_file(tmp_path):
    """One that is better when lower, too; published copies have the keys that were asked for."""
    folder = tmp_path / 'run'
    settings = dict(save_best=['mIoU', 'lowest'], rule=['greater', 'less'], published_keys=['state_dict'])
    train(folder, epochs=2, **settings)
    (folder / 'best_lowest_epoch_1.pth').unlink()
    train(folder, resume=True, name='several', **settings)
    info = read_checkpoint(folder / 'epoch_4.pth')['message_hub']['runtime_info']
    # Epoch 1 is gone with its file; of those from 2 on, which is validated once more, 3 is the lowest.
    assert (info['best_score_mIoU'], info['best_score_lowest']) == (0.7, 0.2)
    bests = {path.name for path in folder.glob('best_*') if '-' not in path.name}
    assert bests == {'best_mIoU_epoch_4.pth', 'best_lowest_epoch_3.pth'}
    (published,) = folder.glob('best_lowest_epoch_3-*.pth')
    assert set(read_checkpoint(published)) == {'state_dict'}


def test_a_score_that_validation_does_not_have_is_named_and_nothing_is_lost(tmp_path):
    folder = tmp_path / 'run'
    with pytest.raises(ValueError, match=r"save_best='mIuO'.*none of the scores of validation: mIoU"):
        train(folder, save_best=['mIuO'], rule=['greater'])
    assert read_checkpoint(folder / 'epoch_1.pth')['meta']['epoch'] == 1
    train(folder, resume=True, name='named', save_best='mIoU')
    assert (folder / 'best_mIoU_epoch_4.pth').is_file()


def test_a_validation_by_itself_saves_nothing(tmp_path):
    """There is no training whose best checkpoint it could be; MMEngine's own hook fails there."""
    scores = build_runner(tmp_path / 'run').val()
    assert scores['mIoU'] in SCORES and not list((tmp_path / 'run').glob('*.pth'))
    assert not (tmp_path / 'run' / 'validation_scores.json').exists()
