"""TorchScript archives are read for their tensors alone."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import torch

from mmetris.utils.torchscript_weights import is_torchscript, read_torchscript


class Nested(torch.nn.Module):
    """What CLIP's archives have: nested modules, parameters, buffers, views, half precision, lists and numbers."""

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).half()
        self.register_buffer('size', torch.tensor(224))
        self.positions = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4).t())
        self.sizes = [1, 2, 3]
        self.rates = [0.5]
        self.name = 'nested'

    def forward(self, x):
        return self.positions @ x


@pytest.fixture(scope='module')
def archive(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('archive') / 'nested.pt'
    torch.jit.save(torch.jit.script(Nested()), str(path))
    return path


def test_its_tensors_are_those_of_its_state_dict(archive):
    expected = torch.jit.load(str(archive)).state_dict()
    read = read_torchscript(archive)
    assert read.keys() == expected.keys()
    for key, value in expected.items():
        assert read[key].dtype == value.dtype and torch.equal(read[key], value), key
    assert is_torchscript(archive)


def rewritten(archive: Path, out: Path, change) -> Path:
    """A copy whose entries have gone through ``change(name, content)``."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(out, 'w') as target:
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))
    return out


MEMO = b'\x80\x02Nr\xff\xff\xff\x7f.'  # An entry of number 2^31 - 1 in its memo.
SIZED = b'\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.'  # A byte array of 2^40 - 1 bytes, of which none follows.


class Runs:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.folder),)


def test_a_program_in_it_is_not_run_and_other_names_are_refused(archive, tmp_path):
    folder = tmp_path / 'made'
    # Code that does not compile: whoever ran it would say so.
    broken = rewritten(
        archive, tmp_path / 'code.pt', lambda name, content: b'import os' if name.endswith('.py') else content
    )
    assert read_torchscript(broken).keys() == read_torchscript(archive).keys()
    evil = pickle.dumps(Runs(folder), protocol=2)
    path = rewritten(archive, tmp_path / 'evil.pt', lambda name, old: evil if name.endswith('/data.pkl') else old)
    with pytest.raises(ValueError, match=r'evil\.pt cannot be read .*Unsupported global: posix\.mkdir'):
        read_torchscript(path)
    assert not folder.exists()


def without_end(name, content):
    return content[:-2] if '/data/' in name else content


@pytest.mark.parametrize(
    'pickled, words',
    [
        (None, 'bytes for .* elements'),
        (b'\x80\x02c__torch__\nNested\n', ''),
        (pickle.dumps([1], 2), 'is a list, not a module'),
        (SIZED, 'Unsupported operand: BYTEARRAY8|no pickle'),
        (MEMO, 'a memo of 2147483647 entries'),
    ],
    ids=['short_storage', 'cut', 'list', 'bytearray_of_a_size', 'memo_of_a_size'],
)
def test_damaged_archives_are_refused(archive, tmp_path, pickled, words):
    def with_pickle(name, content):
        return pickled if name.endswith('/data.pkl') else content

    path = rewritten(archive, tmp_path / 'damaged.pt', without_end if pickled is None else with_pickle)
    with pytest.raises(ValueError, match=r'damaged\.pt cannot be read as a TorchScript archive of weights') as caught:
        read_torchscript(path)
    assert re.search(words, str(caught.value))


def test_a_flipped_bit_is_noticed(archive, tmp_path):
    content = bytearray(archive.read_bytes())
    content[content.index(torch.arange(12.0).numpy().tobytes()) + 5] ^= 1
    (tmp_path / 'flipped.pt').write_bytes(content)
    with pytest.raises(ValueError, match='Bad CRC-32'):
        read_torchscript(tmp_path / 'flipped.pt')


def test_a_compressed_archive_is_refused(archive, tmp_path):
    out = tmp_path / 'compressed.pt'
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(ValueError, match='the archive is compressed'):
        read_torchscript(out)


def test_a_checkpoint_is_no_such_archive(tmp_path):
    torch.save(dict(a=torch.ones(1)), tmp_path / 'a.pth')
    assert not is_torchscript(tmp_path / 'a.pth')
    (tmp_path / 'b.pth').write_bytes(io.BytesIO(b'nothing').getvalue())
    assert not is_torchscript(tmp_path / 'b.pth')
