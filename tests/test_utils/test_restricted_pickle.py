"""Files that would take memory or crash a reader that trusts their numbers; nothing of them is built."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmetris.utils.checkpoint_io import read_checkpoint
from mmetris.utils.restricted_pickle import check_names


class Call:
    """Pickled, it calls a function with arguments, and sets a state if there is one."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def save(path: Path, content, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


OBJECTS = np.dtype('O')
HUGE = 1 << 40
CALLS = {
    'bytearray of a size': lambda: Call(bytearray, HUGE),
    'tensor of a size': lambda: Call(torch.FloatTensor, HUGE),
    'torch.Tensor': lambda: Call(torch.Tensor, HUGE),
    'torch.Tensor of little': lambda: Call(torch.Tensor, 1 << 20),
    'array of a size': lambda: Call(np.ndarray, (HUGE,)),
    'array of addresses': lambda: Call(np.ndarray, (1,), 'O', b'\x01' * 8),
    'type of any width': lambda: Call(np.dtype, 'V4000000000'),
    'type of objects': lambda: Call(np.dtype, 'O'),
    'composed type': lambda: Call(np.dtype, [('a', 'O')]),
    'a type whose state says it holds addresses': lambda: Call(
        np.dtype, 'i8', state=(3, '|', None, None, None, -1, -1, 63)
    ),
    'array whose state says it holds addresses': lambda: Call(
        np.zeros(0).__reduce__()[0], np.ndarray, (0,), b'b', state=(1, (1,), OBJECTS, False, [1])
    ),
    'array with too few bytes': lambda: Call(
        np.zeros(0).__reduce__()[0], np.ndarray, (0,), b'b', state=(1, (1 << 30,), np.dtype('f8'), False, b'1234')
    ),
    'array of a negative side': lambda: Call(
        np.zeros(0).__reduce__()[0], np.ndarray, (0,), b'b', state=(1, (-1, -1), np.dtype('i1'), False, b'1')
    ),
    'number without bytes': lambda: Call(np.float64(1).__reduce__()[0], np.dtype('f8'), b''),
    'range': lambda: Call(range, HUGE),
}


@pytest.mark.parametrize('kind', CALLS)
@pytest.mark.parametrize('legacy', [False, True], ids=['archive', 'old_format'])
def test_what_takes_memory_by_number_or_trusts_a_state_is_refused(tmp_path, kind, legacy):
    if kind == 'a type whose state says it holds addresses':
        path = save(tmp_path / 'state.pth', dict(value=CALLS[kind]()), legacy)
        assert read_checkpoint(path)['value'].value == np.dtype('i8')  # Only the byte order of it counts.
        return
    path = save(tmp_path / 'evil.pth', dict(state_dict=dict(a=torch.ones(2)), value=CALLS[kind]()), legacy)
    with pytest.raises(ValueError, match=r'evil\.pth cannot be read as a checkpoint'):
        read_checkpoint(path)


def test_a_tensor_that_repeats_its_elements_is_refused(tmp_path):
    """Bytes in the file, gigabytes in the first copy of it."""
    path = save(tmp_path / 'strides.pth', dict(state_dict=dict(a=torch.ones(1).expand(1 << 20))))
    with pytest.raises(ValueError, match=r'a tensor of shape \(1048576,\) whose elements are not in the file'):
        read_checkpoint(path)


def rewritten(path: Path, out: Path, compression=zipfile.ZIP_STORED, double: bool = False) -> Path:
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(out, 'w', compression) as other:
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
        if double:
            with pytest.warns(UserWarning, match='Duplicate'):
                other.writestr(archive.namelist()[0], b'another')
    return out


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path):
    path = save(tmp_path / 'zeros.pth', dict(state_dict=dict(a=torch.zeros(1 << 20))))
    bomb = rewritten(path, tmp_path / 'bomb.pth', zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 1 << 16
    with pytest.raises(ValueError, match='the archive is compressed, which PyTorch never does'):
        read_checkpoint(bomb)


def test_entries_of_one_name_are_refused(tmp_path):
    """One reader would take the first, another the last."""
    path = save(tmp_path / 'whole.pth', dict(state_dict=dict(a=torch.zeros(2))))
    with pytest.raises(ValueError, match='several entries of the archive have one name'):
        read_checkpoint(rewritten(path, tmp_path / 'double.pth', double=True))


def test_no_bit_of_an_entry_lets_a_tensor_be_memory_as_it_was_found(tmp_path):
    """PyTorch reads nothing into the memory of an entry that says it is a folder, or empty, and reports no error."""
    values = torch.arange(100.0)
    raw = save(tmp_path / 'whole.pth', dict(state_dict=dict(a=values))).read_bytes()
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        (name,) = (entry.filename for entry in archive.infolist() if entry.filename.endswith('/data/0'))
    start = raw.rindex(name.encode()) - 46  # The fixed part of the entry in the archive's directory.
    assert raw[start : start + 4] == b'PK\x01\x02'
    path, refused = tmp_path / 'changed.pth', 0
    for place in range(8 * (46 + len(name))):
        content = bytearray(raw)
        content[start + place // 8] ^= 1 << place % 8
        path.write_bytes(content)
        try:
            read = read_checkpoint(path)
        except ValueError:
            refused += 1
        else:
            assert torch.equal(read['state_dict']['a'], values), place
    assert refused > 100
    content = bytearray(raw)
    content[start + 20 : start + 24] = bytes(4)  # The size of what is stored.
    path.write_bytes(content)
    with pytest.raises(ValueError, match='says it is a folder, or has another size'):
        read_checkpoint(path)


def with_attributes() -> torch.Tensor:
    """As FSDP's parameters are."""
    tensor = torch.arange(4.0)
    tensor.origin = (1, 2)
    return tensor


def corpus() -> dict:
    """What trainings and published codes save."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 2)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 3, 5])
    return dict(
        state_dict=OrderedDict(model.state_dict()),
        model=model.state_dict(),
        parameter=torch.nn.Parameter(torch.ones(2)),
        with_attributes=with_attributes(),
        optimizer=optimizer.state_dict(),
        schedule=schedule.state_dict(),
        scaler=dict(scale=65536.0, growth_tracker=0),
        milestones=Counter([3, 3, 5]),
        size=torch.Size([2, 3]),
        kinds=[torch.float16, torch.bfloat16, torch.int64, torch.bool],
        device=torch.device('cpu'),
        half=torch.ones(3, dtype=torch.bfloat16),
        view=torch.arange(12).reshape(3, 4).t()[1:],
        whole=1 << 70,
        texts=('ä', b'bytes', None, True, 1.5, {1, 2}),
    )


@pytest.mark.parametrize('legacy', [False, True], ids=['archive', 'old_format'])
def test_what_trainings_save_is_read(tmp_path, legacy):
    content = corpus()
    if legacy:
        content.pop('half')  # The old format knows no bfloat16 storages by name in every PyTorch.
    read = read_checkpoint(save(tmp_path / 'corpus.pth', content, legacy))
    assert read.keys() == content.keys()
    assert torch.equal(read['view'], content['view']) and read['milestones'] == content['milestones']
    assert read['kinds'] == content['kinds'] and read['whole'] == 1 << 70 and read['texts'] == content['texts']
    assert torch.equal(read['optimizer']['state'][0]['exp_avg'], content['optimizer']['state'][0]['exp_avg'])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_looked_at_or_refused(content):
    try:
        check_names(io.BytesIO(content))
    except pickle.UnpicklingError:
        pass


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_changed_byte_is_read_or_refused(tmp_path_factory, data):
    """In the old format, which has no checksums."""
    path = save(tmp_path_factory.mktemp('changed') / 'a.pth', dict(a=np.arange(3.0), b=np.float32(1), c=[1, 'x']), True)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        read_checkpoint(path)
    except ValueError:
        pass


def test_an_archive_that_says_it_has_several_parts_is_damaged(tmp_path):
    """Python's own question whether a file is an archive ends with an error for it."""
    locator = b'PK\x06\x07' + (1).to_bytes(4, 'little') + bytes(8) + (2).to_bytes(4, 'little')
    (tmp_path / 'parts.pth').write_bytes(bytes(100) + locator + b'PK\x05\x06' + bytes(18))
    with pytest.raises(ValueError, match=r'parts\.pth is damaged \(zipfiles that span multiple disks'):
        read_checkpoint(tmp_path / 'parts.pth')
