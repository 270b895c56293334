"""The tensors of a TorchScript archive, read without running the program in it.

OpenAI publishes CLIP in this form. ``torch.jit.load`` would compile the archive's code and run what its modules set
their state with; a file of a stranger's could write files that way.
"""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .checkpoint_io import archived_names
from .restricted_pickle import STORAGES, check_archive, check_memory

_LISTS = ('build_intlist', 'build_doublelist', 'build_boollist', 'build_tensorlist')


def is_torchscript(path: str | os.PathLike) -> bool:
    """Whether a file is an archive with a program; a checkpoint of ``torch.save`` has none."""
    return any(name.endswith('/constants.pkl') for name in archived_names(path))


def read_torchscript(path: str | os.PathLike) -> dict[str, Tensor]:
    """Parameters and buffers of the archived module by their dotted names, as its ``state_dict()`` has them.

    Args:
        path: The archive.

    Raises:
        ValueError: If it is damaged, holds anything but modules, tensors and plain values, or says it unpacks to more
            than it has.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_archive(archive, os.stat(path).st_size, part='/data')  # data.pkl and data/0, data/1, ...
            (content,) = (name for name in archive.namelist() if name.endswith('/data.pkl'))
            module = _Reader(archive, content).load()
            return dict(_named_tensors(module, ''))
    except Exception as error:  # A damaged file raises whatever its bytes lead to.
        raise ValueError(
            f'{path} cannot be read as a TorchScript archive of weights ({error}); nothing in it was run. Copy or '
            'download it again'
        ) from error


class _Stored:
    """A tensor as the archive describes it, made into one after all is read: what the pickle does to it is lost."""

    __slots__ = ('arguments',)

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def tensor(self) -> Tensor:
        storage, offset, size, stride = self.arguments[:4]
        # PyTorch compares offset, size and stride with the storage; a stride of 0 would repeat its elements.
        value = torch.as_strided(storage, tuple(size), tuple(stride), offset)
        if value.numel() > storage.numel():
            raise pickle.UnpicklingError(f'a tensor of shape {tuple(size)} whose elements are not in the file')
        return value


class _Module:
    """What every class of the archive's program becomes: its attributes."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError('a module whose state is no dict')
        self.attributes = state


class _Reader(pickle.Unpickler):
    """Python's own unpickler, which here finds the names below alone."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        content = archive.read(name)
        check_memory(content)
        super().__init__(io.BytesIO(content))
        self.archive = archive
        self.root = name.removesuffix('data.pkl')
        self.storages: dict[str, Tensor] = {}
        # Of this reading: a pickle can set attributes of the classes that it is given.
        module = type('Module', (_Module,), {})
        self.names: dict[tuple[str, str], Callable | type | torch.dtype] = {
            ('torch._utils', '_rebuild_tensor_v2'): lambda *arguments: _Stored(*arguments),
            ('collections', 'OrderedDict'): lambda *arguments: OrderedDict(*arguments),
            ('torch.jit._pickle', 'restore_type_tag'): lambda value, tag: value,
            **{('torch.jit._pickle', name): lambda values: list(values) for name in _LISTS},
            **{('torch', name): dtype for name, dtype in STORAGES.items()},
        }
        self.module = module

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name of the archive."""
        if module.split('.')[0] == '__torch__':
            return self.module
        if (module, name) not in self.names:
            raise pickle.UnpicklingError(f'Unsupported global: {module}.{name}')
        return self.names[module, name]

    def persistent_load(self, pid: Any) -> Tensor:
        """A storage, as a tensor of one dimension."""
        kind, dtype, key, _, numel = pid
        if kind != 'storage' or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError('a reference to something other than a storage')
        if key not in self.storages:
            content = bytearray(self.archive.read(f'{self.root}data/{key}'))
            if len(content) != numel * dtype.itemsize:
                raise pickle.UnpicklingError(f'storage {key} has {len(content)} bytes for {numel} elements of {dtype}')
            self.storages[key] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        return self.storages[key]


def _named_tensors(module: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(module, _Module):
        raise pickle.UnpicklingError(f'{prefix or "the content"} is a {type(module).__name__}, not a module')
    for name, value in module.attributes.items():
        if isinstance(value, _Stored):
            yield f'{prefix}{name}', value.tensor()
        elif isinstance(value, _Module):
            yield from _named_tensors(value, f'{prefix}{name}.')


__all__ = ['is_torchscript', 'read_torchscript']
