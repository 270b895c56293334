"""Weights are read out of TorchScript archives as torch.jit.load would give them, and nothing of the archive is run."""

import io
import pickle
import sys
import warnings
import zipfile
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmetris.utils.torchscript_weights import is_torchscript, read_torchscript

warnings.filterwarnings('ignore', category=DeprecationWarning)


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.register_buffer('mask', torch.arange(6).reshape(2, 3).bool())

    def forward(self, x):
        return self.blocks(x)


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Inner()
        self.shared = nn.Parameter(torch.randn(5, 3).t())  # Not contiguous.
        self.narrow = nn.Parameter(torch.randn(2, 2).half())
        self.scale = 3
        self.names = ['a', 'b']
        self.empty = nn.Parameter(torch.empty(0))

    def forward(self, x):
        return self.inner(x) * self.scale


class Writes(nn.Module):
    """TorchScript of it sets a flag of the process when it is loaded: a sign that its code runs."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return x + self.weight

    @torch.jit.export
    def __getstate__(self):
        return (self.weight, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        torch.manual_seed(4711)
        self.weight = state[0]
        self.training = state[1]


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / 'model.pt'
    torch.jit.save(torch.jit.script(Outer()), str(path))
    return path


def test_the_state_dict_is_that_of_torch(archive):
    expected = torch.jit.load(str(archive)).state_dict()
    read = read_torchscript(archive)
    assert is_torchscript(archive) and read.keys() == expected.keys() and len(read) == 11
    for key, value in expected.items():
        assert torch.equal(read[key], value) and read[key].dtype == value.dtype, key


def test_code_of_an_archive_is_not_run(tmp_path):
    path = tmp_path / 'writes.pt'
    torch.jit.save(torch.jit.script(Writes()), str(path))
    torch.manual_seed(0)
    torch.jit.load(str(path))
    assert torch.initial_seed() == 4711, 'torch.jit.load runs it'
    torch.manual_seed(0)
    with pytest.raises(
        ValueError, match=r'cannot be read as a TorchScript archive of weights \(.*; nothing in it was run'
    ):
        read_torchscript(path)
    assert torch.initial_seed() == 0


def rewritten(archive, path, change=None, compress=()):
    """A copy of an archive with other content."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(path, 'w') as target:
        for info in source.infolist():
            kind = zipfile.ZIP_DEFLATED if any(part in info.filename for part in compress) else zipfile.ZIP_STORED
            content = source.read(info)
            changed = None if change is None else change(info.filename, content)
            target.writestr(info.filename, content if changed is None else changed, kind)
    return path


class Calls:
    def __reduce__(self):
        return (print, ('ran',))


class Module:
    """What a module of an archive is pickled as: an instance of a class of its own code."""


Module.__module__ = '__torch__'
Module.__qualname__ = 'Module'


def in_module(size=0, shape=(4,), stride=(1,), numel=4):
    """A pickle of a module with a tensor of a shape from a storage of so many numbers, as PyTorch writes them."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ('storage', torch.FloatStorage, '0', 'cpu', numel) if value is Pickler else None

    class Tensor:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Pickler, size, shape, stride, False, {})

    module = Module()
    module.weight = Tensor()
    file = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, '__torch__', SimpleNamespace(Module=Module))
        Pickler(file, 2).dump(module)
    return file.getvalue()


def with_pickle(archive, path, content):
    """A copy of an archive with another tree, and a storage of four numbers."""
    changed = {'data.pkl': content, '0': torch.arange(4.0).numpy().tobytes()}
    return rewritten(archive, path, lambda name, _: changed.get(name.rpartition('/')[2]))


def test_a_tree_made_by_hand_is_read(archive, tmp_path):
    read = read_torchscript(with_pickle(archive, tmp_path / 'x.pt', in_module(1, (2,))))
    assert torch.equal(read['weight'], torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize(
    'content',
    [
        pickle.dumps(Calls(), 2),
        b'',
        pickle.dumps([1, 2], 2),
        in_module(0, (10**6, 10**6), (0, 0)),
        in_module(3, (4,)),
        in_module(0, (4,), numel=10**12),
        in_module(0, (2, 2), (-1, 1)),
    ],
    ids=['code', 'empty', 'a list', 'a large view', 'beyond the end', 'more than there is', 'backwards'],
)
def test_other_content_is_refused(archive, tmp_path, content, capsys):
    path = with_pickle(archive, tmp_path / 'x.pt', content)
    with pytest.raises(ValueError, match=r'x\.pt cannot be read'):
        read_torchscript(path)
    assert 'ran' not in capsys.readouterr().out


def test_compressed_and_damaged_parts_are_refused(archive, tmp_path):
    with pytest.raises(ValueError, match='is compressed'):
        read_torchscript(rewritten(archive, tmp_path / 'small.pt', compress=('/data/',)))
    whole = archive.read_bytes()
    (tmp_path / 'cut.pt').write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r'cut\.pt cannot be read'):
        read_torchscript(tmp_path / 'cut.pt')
