"""Reading checkpoints without running what is inside, and writing files that are there completely or not at all."""

from __future__ import annotations

import os
import pickle
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

_NUMPY_CORE = np._core if hasattr(np, '_core') else np.core
_NUMPY_MODULES = ('numpy._core.multiarray', 'numpy.core.multiarray')  # The name depends on the writer's NumPy.
_METHODS = 'statistics_methods'  # What a history's pickle calls its methods.


class _History(HistoryBuffer):
    """What a logged number's history in a file becomes: a HistoryBuffer again, without the methods named there."""

    def __setstate__(self, state: dict) -> None:
        HistoryBuffer.__init__(self)
        self.__dict__.update({key: value for key, value in state.items() if not callable(value) and key != _METHODS})
        self.__class__ = HistoryBuffer


def _method_of_history(owner: type, name: str) -> Any:
    """Stands for ``getattr``, by which a history's pickle names its methods, and does nothing else."""
    if owner not in (_History, HistoryBuffer) or name.startswith('_'):
        raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r})')
    return getattr(HistoryBuffer, name)


def _safe_globals() -> list[Any]:
    """What MMEngine's checkpoints hold besides tensors and plain values: NumPy's numbers, histories of logged ones."""
    functions = [
        (getattr(_NUMPY_CORE.multiarray, name), f'{module}.{name}')
        for name in ('_reconstruct', 'scalar')
        for module in _NUMPY_MODULES
    ]
    codes = np.typecodes['AllInteger'] + np.typecodes['Float'] + '?'
    dtypes = {type(np.dtype(code)) for code in codes}
    history = [
        (_History, f'{HistoryBuffer.__module__}.{HistoryBuffer.__qualname__}'),
        _History,
        (_method_of_history, 'builtins.getattr'),
        (_method_of_history, '__builtin__.getattr'),
    ]
    return [np.ndarray, np.dtype, *dtypes, *functions, *history]


def declare_safe_globals() -> None:
    """Let every restricted ``torch.load`` of this process read what MMEngine stores beside the weights.

    MMEngine 0.10.7 resumes by a plain ``torch.load``, which is restricted since PyTorch 2.6 and would refuse the
    histories of logged numbers. None of what is declared runs code of the file. Calling it again changes nothing.
    """
    torch.serialization.add_safe_globals(_safe_globals())


def read_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """Read a checkpoint of tensors and plain values onto the CPU.

    MMEngine's own loading falls back to running pickled code when the restricted way fails; this does not.

    Args:
        path: A ``.pth`` file (of MMEngine, PyTorch or the released ETRIS code) or a ``.safetensors`` file.

    Returns:
        What was saved, such as ``dict(state_dict=..., meta=...)``. The content of a ``.safetensors`` file comes as
        ``dict(state_dict=...)``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, holds no dict, or holds anything but tensors, numbers, text and containers.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'checkpoint not found: {path}')
    if path.suffix == '.safetensors':
        return dict(state_dict=_read_safetensors(path))
    _check_sums(path)
    try:
        declare_safe_globals()  # Once more: whoever declared one of them for a block of code took it away behind it.
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except OSError as error:
        raise ValueError(f'{path} cannot be read, or its end is missing: {error}') from error
    except Exception as error:  # A damaged file raises whatever its broken bytes lead to.
        kind = (
            'it holds Python objects other than tensors and plain values, or is damaged'
            if isinstance(error, pickle.UnpicklingError)
            else 'it is damaged or no checkpoint'
        )
        raise ValueError(
            f'{path} cannot be read as a checkpoint: {kind}; nothing in it was run ({_reason(error)})'
        ) from error
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f'{path} holds a {type(checkpoint).__name__}, not a checkpoint')
    return dict(checkpoint)


def _reason(error: Exception) -> str:
    """What an error of ``torch.load`` is about, in a line, without its advice to load the file unrestrictedly."""
    refused = re.search(r'unsupported (global|class|operand).*?(?= was not| whose|$)', str(error), re.MULTILINE | re.I)
    if refused:
        return refused[0]
    text = str(error).rpartition('WeightsUnpickler error: ')[2].strip()
    kind = type(error).__name__
    return kind if not text or text.startswith('Weights only') else f'{kind}: {text.splitlines()[0][:120]}'


def _check_sums(path: Path) -> None:
    """Compare the checksums that PyTorch writes but does not read: a flipped bit of a weight shows only there."""
    if not zipfile.is_zipfile(path):
        return  # The format before PyTorch 1.6 has none.
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # As below: whatever broken bytes lead to.
        raise ValueError(f'{path} is damaged ({error}); copy or download it again') from error
    if damaged is not None:
        raise ValueError(
            f'{path} is damaged: the checksum of {damaged} is wrong. Copy or download it again; if it was '
            'saved without checksums (torch.serialization.set_crc32_options), save it with them'
        )


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise ValueError(f'{path} is not a readable safetensors file ({error})') from error


@contextmanager
def write_atomically(path: str | os.PathLike) -> Iterator[Path]:
    """Name a temporary file beside ``path``, which takes its place when the block ends without an error.

    A reader sees the old file or the new one, never a part, and an error leaves no trace. Missing folders are made.

    Args:
        path: The file to write.

    Yields:
        The temporary file, to be written by the block.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A part of the name, since a file system takes no more than 255 bytes.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.stem[:40]}_', suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp's files are for their owner only.
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(
    path: str | os.PathLike, checkpoint: Mapping[str, Any], save: Callable[[Any, str], None] = torch.save
) -> None:
    """Save a checkpoint atomically.

    Args:
        path: The file to write.
        checkpoint: What to save.
        save: What writes it to a file name. Defaults to :func:`torch.save`.
    """
    with write_atomically(path) as temporary:
        save(dict(checkpoint), str(temporary))
