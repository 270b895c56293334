"""Reading checkpoints without running what is inside, and writing files that are there completely or not at all."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

# What MMEngine's checkpoints hold besides tensors and plain values: the histories of logged numbers. None of these can
# be made to call anything.
_NUMPY_CORE = np._core if hasattr(np, '_core') else np.core
_NUMPY_MODULES = ('numpy._core.multiarray', 'numpy.core.multiarray')  # The name depends on the writer's NumPy.
_NUMBER_TYPES = (np.bool_, np.int32, np.int64, np.float32, np.float64)


def _allowed() -> list[Any]:
    functions = [(getattr(_NUMPY_CORE.multiarray, name), f'{module}.{name}')
                 for name in ('_reconstruct', 'scalar') for module in _NUMPY_MODULES]
    dtypes = [type(np.dtype(number)) for number in _NUMBER_TYPES]
    return [HistoryBuffer, np.ndarray, np.dtype, *dtypes, *functions]


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
    try:
        if hasattr(torch.serialization, 'safe_globals'):
            with torch.serialization.safe_globals(_allowed()):
                checkpoint = torch.load(path, map_location='cpu', weights_only=True)
        else:  # Before PyTorch 2.5, which then refuses files that hold histories of logged numbers.
            checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except OSError as error:
        raise ValueError(f'{path} cannot be read: {error}') from error
    except Exception as error:  # A damaged file raises whatever its broken bytes lead to.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        kind = ('it holds Python objects other than tensors and plain values, or is damaged'
                if isinstance(error, pickle.UnpicklingError) else 'it is damaged or no checkpoint')
        raise ValueError(f'{path} cannot be read as a checkpoint: {kind}; nothing in it was run ({reason})') from error
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f'{path} holds a {type(checkpoint).__name__}, not a checkpoint')
    return dict(checkpoint)


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
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.stem}_', suffix=path.suffix)
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


def save_checkpoint(path: str | os.PathLike, checkpoint: Mapping[str, Any],
                    save: Callable[[Any, str], None] = torch.save) -> None:
    """Save a checkpoint atomically.

    Args:
        path: The file to write.
        checkpoint: What to save.
        save: What writes it to a file name. Defaults to :func:`torch.save`.
    """
    with write_atomically(path) as temporary:
        save(dict(checkpoint), str(temporary))
