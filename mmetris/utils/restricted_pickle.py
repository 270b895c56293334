"""What a checkpoint may hold beside tensors, and what is looked at before ``torch.load`` takes any of it.

PyTorch's restricted reader runs no function of a file's choosing, but what it may call with a file's numbers includes
constructors that take memory by number (``bytearray``, ``torch.FloatTensor``), and what MMEngine stores needs NumPy's
types, whose own unpickling trusts its input. So names are compared with a shorter list first, and NumPy's are
replaced by stand-ins that check what they are given.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

_NUMPY_MODULES = ('numpy._core.multiarray', 'numpy.core.multiarray')  # The name depends on the writer's NumPy.
_METHODS = 'statistics_methods'  # What a history's pickle calls its methods.
_NUMBERS = np.typecodes['AllInteger'] + np.typecodes['Float'] + '?'
# How a pickle calls the numbers of a tensor.
STORAGES = {
    'FloatStorage': torch.float32,
    'HalfStorage': torch.float16,
    'BFloat16Storage': torch.bfloat16,
    'DoubleStorage': torch.float64,
    'ByteStorage': torch.uint8,
    'CharStorage': torch.int8,
    'ShortStorage': torch.int16,
    'IntStorage': torch.int32,
    'LongStorage': torch.int64,
    'BoolStorage': torch.bool,
    'ComplexFloatStorage': torch.complex64,
    'ComplexDoubleStorage': torch.complex128,
}
_END_BYTES = 22  # Of an archive's last record, where no comment follows.
# Bits of an archive's entries.
_MSDOS_DIRECTORY = 0x10
_ENCRYPTED = 0x1
_LEGACY_PICKLES = 5  # In a file before PyTorch 1.6: magic number, version, system, content, keys of the storages.

_lock = threading.RLock()  # What is declared safe counts for the whole process.


class _DType:
    """Stands for ``numpy.dtype``: a number of a byte order, nothing composed and no objects."""

    def __init__(self, code: Any = None, align: Any = False, copy: Any = True) -> None:
        del align, copy
        if not isinstance(code, str) or len(code) > 4:
            raise pickle.UnpicklingError(f'numpy.dtype({code!r})')
        self.value = np.dtype(code)
        if self.value.char not in _NUMBERS:
            raise pickle.UnpicklingError(f'numpy.dtype({code!r})')

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ('<', '>', '=', '|'):
            raise pickle.UnpicklingError('the state of a numpy.dtype')
        self.value = self.value.newbyteorder(state[1])


class _Array(np.ndarray):
    """Stands for ``numpy.ndarray``: its shape, type and bytes fit each other, or it is refused."""

    def __new__(cls) -> _Array:
        return super().__new__(cls, (0,), np.int8)

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError('the state of a numpy.ndarray')
        _, shape, dtype, is_fortran, content = state
        if (
            not isinstance(shape, tuple)
            or not all(type(side) is int and side >= 0 for side in shape)
            or len(shape) > 32
            or not isinstance(dtype, _DType)
            or not isinstance(content, bytes)
            or math.prod(shape) * dtype.value.itemsize != len(content)
        ):
            raise pickle.UnpicklingError('the state of a numpy.ndarray')
        super().__setstate__((1, shape, dtype.value, bool(is_fortran), content))  # type: ignore[arg-type]

    def __reduce__(self) -> Any:  # It is saved as what it stands for.
        return plain(self).__reduce__()


def plain(array: np.ndarray) -> np.ndarray:
    """An array as NumPy's own class, not sharing memory."""
    return np.array(array, copy=True, subok=False)


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    """Stands for NumPy's function of that name, which makes the empty array that a state is put into."""
    del shape, code
    if kind is not _Array:
        raise pickle.UnpicklingError(f'an array of class {kind!r}')
    return _Array()


def _scalar(dtype: Any, content: Any) -> np.generic:
    """Stands for NumPy's function of that name: a number of its bytes."""
    if not isinstance(dtype, _DType) or not isinstance(content, bytes) or len(content) != dtype.value.itemsize:
        raise pickle.UnpicklingError('a number of NumPy')
    return np.frombuffer(content, dtype.value)[0]


class _History(HistoryBuffer):
    """What a logged number's history in a file becomes: a HistoryBuffer again, without the methods named there."""

    def __new__(cls) -> _History:
        return super().__new__(cls)

    def __setstate__(self, state: dict) -> None:
        HistoryBuffer.__init__(self)
        for key, value in state.items():
            if key != _METHODS and not callable(value):
                self.__dict__[key] = plain(value) if isinstance(value, np.ndarray) else value
        self.__class__ = HistoryBuffer


def _method_of_history(owner: type, name: str) -> Any:
    """Stands for ``getattr``, by which a history's pickle names its methods, and does nothing else."""
    if owner not in (_History, HistoryBuffer) or not isinstance(name, str) or name.startswith('_'):
        raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r})')
    return getattr(HistoryBuffer, name)


_HISTORY: list[Any] = [
    (_History, f'{HistoryBuffer.__module__}.{HistoryBuffer.__qualname__}'),
    (_method_of_history, 'builtins.getattr'),
    (_method_of_history, '__builtin__.getattr'),
]


def _numpy_functions(reconstruct: Any, scalar: Any) -> list[Any]:
    named = (('_reconstruct', reconstruct), ('scalar', scalar))
    return [(function, f'{module}.{name}') for name, function in named for module in _NUMPY_MODULES]


def safe_globals() -> list[Any]:
    """What MMEngine's checkpoints hold besides tensors and plain values: NumPy's numbers, histories of logged ones.

    Returns:
        For :func:`torch.serialization.add_safe_globals`: what stands for a name, and the name.
    """
    stand_ins = _numpy_functions(_reconstruct, _scalar)
    return [*stand_ins, (_Array, 'numpy.ndarray'), (_DType, 'numpy.dtype'), *_HISTORY]


def declared_globals() -> list[Any]:
    """The same for the rest of the process, with NumPy's own types: MMEngine declares them too, and both must fit."""
    core = np._core if hasattr(np, '_core') else np.core
    dtypes = {type(np.dtype(code)) for code in _NUMBERS}
    functions = _numpy_functions(core.multiarray._reconstruct, core.multiarray.scalar)
    return [np.ndarray, np.dtype, *dtypes, *functions, _History, *_HISTORY]


@contextmanager
def only_safe_globals() -> Iterator[None]:
    """Within it ``torch.load`` knows :func:`safe_globals` alone, whatever others have declared safe for themselves."""
    with _lock:
        others = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(safe_globals())
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(others)


def _allowed_names() -> frozenset[str]:
    dtypes = [str(value) for value in vars(torch).values() if isinstance(value, torch.dtype)]
    storages = [f'{module}.{name}' for module in ('torch', 'torch.cuda') for name in STORAGES]
    return frozenset(
        [
            'collections.OrderedDict',
            'collections.Counter',  # A step schedule's milestones.
            '_codecs.encode',  # Bytes, in the pickles that PyTorch writes.
            *(f'{module}.{name}' for module in ('builtins', '__builtin__') for name in ('set', 'complex')),
            'torch.Size',
            'torch.device',
            'torch.nn.parameter.Parameter',
            'torch.serialization._get_layout',
            'torch._utils._rebuild_tensor',
            'torch._utils._rebuild_tensor_v2',
            'torch._utils._rebuild_parameter',
            # Tensors with attributes, such as FSDP's parameters.
            'torch._utils._rebuild_parameter_with_state',
            'torch._tensor._rebuild_from_type_v2',
            'torch.Tensor',
            *dtypes,
            *storages,
            *(one[1] for one in safe_globals() if isinstance(one, tuple)),
        ]
    )


ALLOWED_NAMES = _allowed_names()


def check_names(stream: IO[bytes]) -> None:
    """Compare the names in a pickle with those that a checkpoint needs; nothing of it is built.

    Args:
        stream: At the start of the pickle; at its end afterwards.

    Raises:
        pickle.UnpicklingError: If it names anything else, or is no pickle.
    """
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == 'GLOBAL':
                name = str(argument).replace(' ', '.')
                if name not in ALLOWED_NAMES:
                    raise pickle.UnpicklingError(f'Unsupported global: {name}')
            elif opcode.name in ('STACK_GLOBAL', 'INST', 'EXT1', 'EXT2', 'EXT4'):
                raise pickle.UnpicklingError(f'Unsupported operand: {opcode.name}')
    except (ValueError, IndexError, UnicodeError, OverflowError) as error:  # What pickletools makes of other bytes.
        raise pickle.UnpicklingError(f'no pickle: {error}') from error


def check_memory(content: bytes) -> None:
    """Refuse a pickle that has Python's own unpickler take memory by a number in it, not by its length.

    Args:
        content: The pickle.

    Raises:
        pickle.UnpicklingError: If it does, or is no pickle.
    """
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name in ('BYTEARRAY8', 'NEXT_BUFFER', 'READONLY_BUFFER'):
                raise pickle.UnpicklingError(f'Unsupported operand: {opcode.name}')
            if opcode.name in ('PUT', 'BINPUT', 'LONG_BINPUT') and int(argument or 0) > len(content):
                raise pickle.UnpicklingError(f'a memo of {argument} entries')
    except (ValueError, IndexError, UnicodeError, OverflowError) as error:
        raise pickle.UnpicklingError(f'no pickle: {error}') from error


def check_before_loading(path: Path) -> None:
    """Look at the names in a file that ``torch.load`` is about to read.

    Args:
        path: An archive of PyTorch 1.6 or newer, or a file of the format before.

    Raises:
        pickle.UnpicklingError: If it names what no checkpoint needs.
        Exception: Whatever a damaged file leads to.
    """
    if not zipfile.is_zipfile(path):
        with path.open('rb') as file:
            for _ in range(_LEGACY_PICKLES):
                check_names(file)
        return
    with path.open('rb') as file, zipfile.ZipFile(path) as archive:
        # Read from both ends, all readers of archives find the same entries.
        starts, _ = file.read(4) == b'PK\x03\x04', file.seek(-_END_BYTES, io.SEEK_END)
        if not starts or file.read(4) != b'PK\x05\x06':
            raise pickle.UnpicklingError('there is something before or behind the archive')
        names = [name for name in archive.namelist() if name.endswith('/data.pkl')]
        if len(names) != 1:
            raise pickle.UnpicklingError('the archive has no data.pkl, or several')
        check_names(io.BytesIO(archive.read(names[0])))


def check_archive(archive: zipfile.ZipFile, size: int, part: str = '') -> None:
    """Refuse archives that PyTorch does not write: compressed, overlapping or doubled entries, folders, and what its
    reader would pass over.

    Args:
        archive: The archive.
        size: Bytes of its file.
        part: What the names of the entries contain that will be read. Defaults to all; TorchScript's code is
            compressed.

    Raises:
        pickle.UnpicklingError: If it is such a one.
    """
    entries = [entry for entry in archive.infolist() if part in entry.filename]
    if len({entry.filename for entry in entries}) != len(entries):
        raise pickle.UnpicklingError('several entries of the archive have one name')
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise pickle.UnpicklingError('the archive is compressed, which PyTorch never does')
    for entry in entries:
        # PyTorch's reader takes such an entry for a folder or an empty file, reads nothing and hands on memory as it
        # found it.
        if entry.is_dir() or entry.external_attr & _MSDOS_DIRECTORY or entry.compress_size != entry.file_size:
            raise pickle.UnpicklingError(f'{entry.filename} of the archive says it is a folder, or has another size')
        if entry.flag_bits & _ENCRYPTED:
            raise pickle.UnpicklingError(f'{entry.filename} of the archive says it is encrypted')
    total = sum(entry.file_size for entry in entries)
    if total > size:
        raise pickle.UnpicklingError(f'the archive has {size} bytes and says it unpacks to {total}')


def tensors_in(content: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested containers."""
    todo, seen = [content], set()
    while todo:
        one = todo.pop()
        if isinstance(one, torch.Tensor):
            yield one
        elif isinstance(one, (dict, list, tuple, set)) and id(one) not in seen:
            seen.add(id(one))
            todo.extend([*one.keys(), *one.values()] if isinstance(one, dict) else one)


def check_tensors(content: Any, size: int) -> None:
    """Refuse tensors that have more elements than their file: by strides of zero, of which a copy would take all, or
    made of a number in the file (``torch.Tensor(n)``), whose memory is not taken until it is touched.

    Args:
        content: What was loaded.
        size: Bytes of the file.

    Raises:
        pickle.UnpicklingError: If there is one.
    """
    seen: set[int] = set()
    total = 0
    for tensor in tensors_in(content):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
        if total > size:
            raise pickle.UnpicklingError(f'its tensors have more than the {size} bytes of the file')
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise pickle.UnpicklingError(f'a tensor of shape {tuple(tensor.shape)} whose elements are not in the file')


__all__ = [
    'STORAGES',
    'check_archive',
    'check_before_loading',
    'check_memory',
    'check_names',
    'check_tensors',
    'declared_globals',
    'only_safe_globals',
    'plain',
    'safe_globals',
    'tensors_in',
]
