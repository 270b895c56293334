"""Checkpoints are read without running what is inside, and files are written whole or not at all."""

import argparse
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import load_file, save_file

from mmetris.utils.checkpoint_io import declare_safe_globals, read_checkpoint, save_checkpoint, write_atomically


class Runs:
    """A pickle of it makes a folder when it is loaded by a loader that runs code."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_what_mmengine_saves_comes_back(tmp_path):
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    saved = dict(
        state_dict=dict(weight=torch.ones(2)),
        meta=dict(epoch=3, cfg='a = 1', seed=np.int64(5)),
        message_hub=dict(log_scalars=dict(loss=history)),
        best=np.float64(0.5),
        flag=np.bool_(True),
    )
    torch.save(saved, tmp_path / 'epoch_3.pth')
    read = read_checkpoint(tmp_path / 'epoch_3.pth')
    assert torch.equal(read['state_dict']['weight'], torch.ones(2))
    assert read['meta'] == dict(epoch=3, cfg='a = 1', seed=5) and read['best'] == 0.5
    loss = read['message_hub']['log_scalars']['loss']
    assert type(loss) is HistoryBuffer and loss.statistics('mean') == 1.5


def test_a_history_cannot_bring_methods_along(tmp_path, monkeypatch):
    monkeypatch.setattr(HistoryBuffer, '_statistics_methods', dict(mean=HistoryBuffer.max, mine=np.ndarray))
    torch.save(dict(history=HistoryBuffer([1.0, 2.0], [1, 1])), tmp_path / 'methods.pth')
    monkeypatch.undo()
    history = read_checkpoint(tmp_path / 'methods.pth')['history']
    assert history.statistics('mean') == 1.5 and 'mine' not in HistoryBuffer._statistics_methods


def test_what_is_declared_lets_a_plain_restricted_load_read_what_training_writes(tmp_path):
    """MMEngine 0.10.7 resumes this way. Importing the registries declares it, as every run does."""
    torch.save(dict(loss=HistoryBuffer([1.0, 2.0], [1, 1]), best=np.float32(0.5)), tmp_path / 'epoch_1.pth')
    program = """
import pickle, torch
try:
    torch.load('epoch_1.pth', weights_only=True)
except pickle.UnpicklingError:
    import mmetris.registry
    read = torch.load('epoch_1.pth', weights_only=True)
    print(type(read['loss']).__name__, read['loss'].statistics('mean'), read['best'])
"""
    (tmp_path / 'program.py').write_text(program)
    done = subprocess.run(
        [sys.executable, 'program.py'],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(Path(__file__).parents[2])),
        text=True,
        capture_output=True,
    )
    assert done.stdout.split() == ['HistoryBuffer', '1.5', '0.5'], done.stderr


def test_reading_goes_on_beside_a_loader_with_a_list_of_its_own(tmp_path):
    """The maintained MMEngine declares some of ours for a block, and the end of the block takes them away."""
    torch.save(dict(loss=HistoryBuffer([1.0, 2.0], [1, 1])), tmp_path / 'epoch_1.pth')
    declare_safe_globals()
    theirs = [getattr, HistoryBuffer, np.ndarray, np.dtype, type(np.dtype(np.float64)), type(np.dtype(np.int64))]
    with torch.serialization.safe_globals(theirs):
        inside = torch.load(tmp_path / 'epoch_1.pth', weights_only=True)
    for read in (inside, read_checkpoint(tmp_path / 'epoch_1.pth')):
        assert read['loss'].statistics('mean') == 1.5


@pytest.mark.parametrize('code', [*np.typecodes['AllInteger'], *np.typecodes['Float'], '?'])
def test_numbers_and_arrays_of_every_type_come_back(tmp_path, code):
    array = np.arange(3).astype(code)
    torch.save(dict(meta=dict(palette=array, best=array[1])), tmp_path / 'numbers.pth')
    read = read_checkpoint(tmp_path / 'numbers.pth')['meta']
    assert read['palette'].dtype == array.dtype and (read['palette'] == array).all() and read['best'] == array[1]


class Getattr:
    def __reduce__(self):
        return getattr, (HistoryBuffer, '__init__')


def test_getattr_reaches_nothing_but_a_historys_methods(tmp_path):
    torch.save(dict(meta=Getattr()), tmp_path / 'bad.pth')
    declare_safe_globals()
    with pytest.raises(pickle.UnpicklingError, match=r'getattr\('):
        torch.load(tmp_path / 'bad.pth', weights_only=True)
    with pytest.raises(ValueError, match='cannot be read'):
        read_checkpoint(tmp_path / 'bad.pth')


@pytest.mark.parametrize(
    'content, named',
    [
        (Runs('was_run'), 'Unsupported global: posix.mkdir'),  # in a module that PyTorch blocks
        (argparse.Namespace(lr=1), 'Unsupported global: argparse.Namespace'),
        (Getattr(), r'getattr\('),
    ],
)
def test_a_refusal_names_what_it_found_and_does_not_advise_to_load_it_anyway(tmp_path, content, named):
    torch.save(dict(meta=content), tmp_path / 'bad.pth')
    with pytest.raises(ValueError, match=named) as caught:
        read_checkpoint(tmp_path / 'bad.pth')
    assert 'weights_only' not in str(caught.value) and '\n' not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize('place', ['alone', 'in_state_dict', 'in_meta'])
def test_pickled_code_is_refused_and_not_run(tmp_path, place):
    code = Runs(tmp_path / 'was_run')
    content = dict(alone=code, in_state_dict=dict(state_dict=dict(weight=code)), in_meta=dict(state_dict={}, meta=code))
    torch.save(content[place], tmp_path / 'bad.pth')
    with pytest.raises(ValueError, match='bad.pth cannot be read as a checkpoint.*nothing in it was run'):
        read_checkpoint(tmp_path / 'bad.pth')
    assert not (tmp_path / 'was_run').exists()


@pytest.mark.parametrize('protocol', [0, 2, 4])
def test_a_bare_pickle_of_code_is_refused_and_not_run(tmp_path, protocol):
    (tmp_path / 'bad.pth').write_bytes(pickle.dumps(Runs(tmp_path / 'was_run'), protocol))
    with pytest.raises(ValueError, match='nothing in it was run'):
        read_checkpoint(tmp_path / 'bad.pth')
    assert not (tmp_path / 'was_run').exists()


def test_functions_of_allowed_modules_are_refused(tmp_path):
    torch.save(dict(state_dict={}, meta=np.fromstring), tmp_path / 'bad.pth')
    with pytest.raises(ValueError, match='cannot be read'):
        read_checkpoint(tmp_path / 'bad.pth')


@pytest.mark.parametrize('part', [0.0, 0.1, 0.5, 0.95])
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_a_cut_off_file_is_refused(tmp_path, part, suffix):
    weights = dict(weight=torch.arange(1000.0))
    path = tmp_path / f'cut{suffix}'
    if suffix == '.pth':
        torch.save(dict(state_dict=weights), path)
    else:
        from safetensors.torch import save_file

        save_file(weights, str(path))
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match='cut'):
        read_checkpoint(path)


def test_a_flipped_bit_in_a_weight_is_noticed(tmp_path):
    torch.save(dict(state_dict=dict(weight=torch.full((64,), 1.5))), tmp_path / 'model.pth')
    content = bytearray((tmp_path / 'model.pth').read_bytes())
    content[content.index(torch.full((64,), 1.5).numpy().tobytes()) + 130] ^= 1
    (tmp_path / 'model.pth').write_bytes(content)
    with pytest.raises(ValueError, match='model.pth is damaged: the checksum'):
        read_checkpoint(tmp_path / 'model.pth')


def test_packed_files_are_refused_before_they_are_unpacked(tmp_path):
    """PyTorch packs none; a thousand times as much could come out."""
    torch.save(dict(weight=torch.zeros(100_000)), tmp_path / 'x.pth')
    with zipfile.ZipFile(tmp_path / 'x.pth') as source, zipfile.ZipFile(tmp_path / 'packed.pth', 'w') as target:
        for info in source.infolist():
            target.writestr(info.filename, source.read(info), zipfile.ZIP_DEFLATED)
    assert torch.load(tmp_path / 'packed.pth', weights_only=True)['weight'].sum() == 0, 'PyTorch reads it'
    with pytest.raises(ValueError, match='packed.pth cannot be read as a checkpoint: the archive is compressed'):
        read_checkpoint(tmp_path / 'packed.pth')


def test_a_file_of_two_kinds_is_refused(tmp_path):
    torch.save(dict(weight=torch.zeros(4)), tmp_path / 'inner.pth')
    inner = torch.frombuffer(bytearray((tmp_path / 'inner.pth').read_bytes()), dtype=torch.uint8)
    save_file(dict(a=torch.zeros(3)), tmp_path / 'one.safetensors')
    save_file(dict(a=torch.zeros(3), z=inner), tmp_path / 'two.safetensors')
    assert zipfile.is_zipfile(tmp_path / 'two.safetensors') and 'a' in load_file(tmp_path / 'two.safetensors')
    assert torch.equal(read_checkpoint(tmp_path / 'one.safetensors')['state_dict']['a'], torch.zeros(3))
    with pytest.raises(ValueError, match='a safetensors file and an archive at once'):
        read_checkpoint(tmp_path / 'two.safetensors')


def test_the_old_format_without_checksums_is_read(tmp_path):
    torch.save(dict(epoch=2), tmp_path / 'model.pth', _use_new_zipfile_serialization=False)
    assert read_checkpoint(tmp_path / 'model.pth') == dict(epoch=2)


def test_a_missing_file_and_one_of_another_kind_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='checkpoint not found: .*none.pth'):
        read_checkpoint(tmp_path / 'none.pth')
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(ValueError, match='holds a list'):
        read_checkpoint(tmp_path / 'list.pth')


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / 'model.pth'
    save_checkpoint(target, dict(state_dict=dict(weight=torch.ones(1))))
    before = target.read_bytes()
    with pytest.raises(RuntimeError, match='stop'), write_atomically(target) as temporary:
        temporary.write_bytes(b'half')
        raise RuntimeError('stop')
    assert target.read_bytes() == before and list(tmp_path.iterdir()) == [target]


def test_files_get_the_usual_permissions(tmp_path):
    (tmp_path / 'usual').touch()
    save_checkpoint(tmp_path / 'new' / 'model.pth', dict(state_dict={}))
    assert (tmp_path / 'new' / 'model.pth').stat().st_mode == (tmp_path / 'usual').stat().st_mode
