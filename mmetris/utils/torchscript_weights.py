"""Weights out of a TorchScript archive without running it.

``torch.jit.load`` makes a program of the archive, whose ``__setstate__`` methods run while it is loaded and may write
files. Only the tree of attributes is read here, by an unpickler that knows tensors and nothing else; the archive's code
is not looked at.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .checkpoint_io import archived_names

_DTYPES = dict(
    FloatStorage=torch.float32,
    HalfStorage=torch.float16,
    BFloat16Storage=torch.bfloat16,
    DoubleStorage=torch.float64,
    LongStorage=torch.int64,
    IntStorage=torch.int32,
    ShortStorage=torch.int16,
    CharStorage=torch.int8,
    ByteStorage=torch.uint8,
    BoolStorage=torch.bool,
)
_LISTS = ('build_intlist', 'build_doublelist', 'build_boollist', 'build_tensorlist')


class _Node:
    """A module of the archive: its attributes, without its class."""


def _first(value: Any, *_: Any) -> Any:
    return value


def _rebuild(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    """A tensor as ``torch._utils._rebuild_tensor_v2`` makes it, of no more numbers than there are."""
    if math.prod(size) > storage.numel():
        raise pickle.UnpicklingError(f'a tensor of shape {tuple(size)} from {storage.numel()} numbers')
    return torch.as_strided(storage, size, stride, offset)  # Raises where it would read beyond them.


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(_stored(archive, f'{root}/data.pkl')))
        self.archive, self.root = archive, root
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.partition('.')[0] == '__torch__':
            return _Node
        if (module, name) == ('torch._utils', '_rebuild_tensor_v2'):
            return _rebuild
        if module == 'torch' and name in _DTYPES:
            return _DTYPES[name]
        if module == 'torch.jit._pickle' and name in (*_LISTS, 'restore_type_tag'):
            return _first
        if (module, name) == ('collections', 'OrderedDict'):
            return OrderedDict
        raise pickle.UnpicklingError(f'{module}.{name}')

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _, numel = pid
        if kind != 'storage' or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise pickle.UnpicklingError(f'no storage: {kind!r}')
        if key not in self.storages:
            content = bytearray(_stored(self.archive, f'{self.root}/data/{key}'))
            if len(content) != numel * dtype.itemsize:
                raise pickle.UnpicklingError(f'data/{key} has {len(content)} bytes for {numel} numbers')
            self.storages[key] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        return self.storages[key]


def _stored(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of an archive that takes no more room outside of it."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise pickle.UnpicklingError(f'{name} is compressed')
    return archive.read(info)  # Compares the checksum.


def is_torchscript(path: str | os.PathLike) -> bool:
    """Whether a file is a TorchScript archive, by the names of its parts.

    Args:
        path: The file.
    """
    return any(name.endswith('/constants.pkl') for name in archived_names(path))


def read_torchscript(path: str | os.PathLike) -> dict[str, Tensor]:
    """Tensors of a TorchScript archive by the names that its state dict has; none of it is run.

    Args:
        path: The file.

    Raises:
        ValueError: If it is damaged, or its attributes are other than modules, tensors and plain values.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            root = next(name for name in archive.namelist() if name.endswith('/constants.pkl')).rpartition('/')[0]
            tree = _Unpickler(archive, root).load()
        return dict(_tensors(tree, '', set()))
    except Exception as error:  # A damaged file raises whatever its broken bytes lead to.
        raise ValueError(
            f'{path} cannot be read as a TorchScript archive of weights; nothing in it was run '
            f'({type(error).__name__}: {str(error)[:120]})'
        ) from error


def _tensors(node: Any, prefix: str, above: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Tensors below a module, by dotted names."""
    if id(node) in above:
        raise pickle.UnpicklingError(f'{prefix} is inside itself')
    for name, value in vars(node).items():
        if isinstance(value, Tensor):
            yield f'{prefix}{name}', value
        elif isinstance(value, _Node):
            yield from _tensors(value, f'{prefix}{name}.', above | {id(node)})
