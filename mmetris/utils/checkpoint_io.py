"""Reading checkpoints without running what is inside, and writing files that are there completely or not at all."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mmetris.utils.restricted_pickle import (
    check_archive,
    check_before_loading,
    check_tensors,
    declared_globals,
    only_safe_globals,
)


def declare_safe_globals() -> None:
    """Let every restricted ``torch.load`` of this process read what MMEngine stores beside the weights.

    MMEngine 0.10.7 resumes by a plain ``torch.load``, which is restricted since PyTorch 2.6 and would refuse the
    histories of logged numbers. None of what is declared runs code of the file; whether its numbers fit each other only
    :func:`read_checkpoint` looks, which our tools do first. Calling it again changes nothing.
    """
    torch.serialization.add_safe_globals(declared_globals())


def read_checkpoint(path: str | os.PathLike, map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a checkpoint of tensors and plain values.

    MMEngine's own loading falls back to running pickled code when the restricted way fails; this does not. Every file
    of weights is read here, wherever it was named (:func:`mmetris.utils.downloads.weights_path`).

    Args:
        path: A ``.pth`` file (of MMEngine, PyTorch or the released ETRIS code) or a ``.safetensors`` file.
        map_location: Where the tensors go, as in :func:`torch.load`. Defaults to the CPU.

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
        return dict(state_dict=read_safetensors(path, map_location)[0])
    check_sums(path)
    try:
        check_before_loading(path)
        with only_safe_globals():
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
        check_tensors(checkpoint, path.stat().st_size)
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


def check_sums(path: Path) -> None:
    """Compare the checksums that PyTorch writes but does not read: a flipped bit of a weight shows only there.

    Args:
        path: The file. One in the format before PyTorch 1.6 has no checksums and passes.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        if not zipfile.is_zipfile(path):
            return  # The format before PyTorch 1.6 has none.
        with zipfile.ZipFile(path) as archive:
            check_archive(archive, path.stat().st_size)  # Before anything is unpacked.
            damaged = archive.testzip()
    except pickle.UnpicklingError as error:
        raise ValueError(f'{path} cannot be read as a checkpoint: {error}') from error
    except Exception as error:  # As below: whatever broken bytes lead to.
        raise ValueError(f'{path} is damaged ({error}); copy or download it again') from error
    if damaged is not None:
        raise ValueError(
            f'{path} is damaged: the checksum of {damaged} is wrong. Copy or download it again; if it was '
            'saved without checksums (torch.serialization.set_crc32_options), save it with them'
        )


def not_finite(state_dict: Mapping[str, Any]) -> list[str]:
    """Names of the tensors that hold NaN or Inf, which computes without an error and finds nothing.

    Args:
        state_dict: Weights by name. What is no plain tensor (a share of one, a number) is not looked at.
    """
    if not isinstance(state_dict, Mapping):
        return []
    plain = (torch.Tensor, torch.nn.Parameter)
    return [
        name
        for name, value in state_dict.items()
        if type(value) in plain
        and value.is_floating_point()
        and not value.is_meta
        and not name.endswith('attn_mask')  # Of minus infinity on purpose.
        and not torch.isfinite(value).all()
    ]


def listed(names: list[str], limit: int = 3) -> str:
    """The first names of a list and the number of the others, for messages."""
    return ', '.join(names[:limit]) + (f' and {len(names) - limit} more' if len(names) > limit else '')


def check_finite(state_dict: Mapping[str, Any], source: str) -> None:
    """Refuse weights that are not finite.

    Args:
        state_dict: Weights by name.
        source: Name of the file, for the message.

    Raises:
        ValueError: If a weight is NaN or infinite.
    """
    if names := not_finite(state_dict):
        raise ValueError(
            f'{source} holds weights that are NaN or infinite: {listed(names)}. Its training went wrong, or it is '
            'damaged: take an earlier checkpoint'
        )


def read_safetensors(
    path: str | os.PathLike, map_location: Any = 'cpu'
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Args:
        path: The file.
        map_location: Where the tensors go: a device or its name. Anything else means the CPU, as it is the default.

    Raises:
        ValueError: If it is damaged, or is an archive as well, for which another reader may take it.
    """
    from safetensors import SafetensorError, safe_open

    device = str(map_location) if isinstance(map_location, (str, torch.device)) else 'cpu'
    try:
        with safe_open(str(path), framework='pt', device=device) as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  It is no dict.
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ValueError(f'{path} is not a readable safetensors file ({error}); copy or download it again') from error
    if archived_names(path):
        raise ValueError(f'{path} is a safetensors file and an archive at once: it was made to be misread; use another')
    return tensors, metadata


def archived_names(path: str | os.PathLike) -> list[str]:
    """Files in a zip archive.

    Args:
        path: The file.

    Returns:
        Their names; none if it is no archive, or one that cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except Exception:  # noqa: BLE001  No archive, or one that nobody can read.
        return []


class CheckpointNotSavedError(OSError):
    """A checkpoint could not be written; those before it are as they were."""


class MisfitError(ValueError):
    """A checkpoint is not the model's; the message names keys and shapes."""


class NonFiniteLossError(FloatingPointError):
    """A loss, or weights to be saved, are NaN or infinite; the message names step, samples and weights."""


UNFINISHED = '.unfinished'  # The end of the name of what is still being written.
OUTDATED = f'.outdated{UNFINISHED}'  # ... of a folder whose name a new one is about to get.


def unfinished_path(path: str | os.PathLike) -> Path:
    """Where a checkpoint stands until it is whole: beside it, under a name that nobody takes for a checkpoint.

    Args:
        path: The checkpoint, a file or a folder.
    """
    path = Path(path)
    return path.with_name(f'.{path.name}{UNFINISHED}')


def put_in_place(temporary: Path, path: Path) -> None:
    """Give a file or folder its final name once all of it is on the disk.

    A file takes the place of an older one in one step. A folder cannot: the older one is renamed first, so that for a
    moment none has the name.

    Args:
        temporary: What was written, in the folder of ``path``.
        path: Its final name.
    """
    if temporary.is_dir():
        for inner in sorted(temporary.rglob('*'), reverse=True):
            _sync(inner)
    _sync(temporary)
    if path.is_dir():
        outdated = path.with_name(f'.{path.name}{OUTDATED}')
        remove(outdated)
        path.replace(outdated)
        temporary.replace(path)
        remove(outdated)
    else:
        temporary.replace(path)
    _sync(path.parent)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Have a file's content, or a folder's names, written to the disk: renaming alone does not order that."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        return  # Windows opens no folders.
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def write_atomically(path: str | os.PathLike, temporary: Path | None = None, sync: bool = False) -> Iterator[Path]:
    """Name a temporary file beside ``path``, which takes its place when the block ends without an error.

    A reader sees the old file or the new one, never a part, and an error leaves no trace. Missing folders are made.

    Args:
        path: The file to write.
        temporary: Name of the temporary file, for those who must know it beforehand. Defaults to None: a new one.
        sync: Whether the content is on the disk before the name is, so that a power failure does not leave the name
            of an empty file. Defaults to False: it takes milliseconds for each file.

    Yields:
        The temporary file, to be written by the block.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_new := temporary is None:
        # A part of the name, since a file system takes no more than 255 bytes.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.stem[:40]}_', suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
    try:
        yield temporary
        if is_new:
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)  # mkstemp's files are for their owner only.
        if sync:
            put_in_place(temporary, path)
        else:
            temporary.replace(path)
    except BaseException:  # A signal that ends the program, too.
        remove(temporary)
        raise


def save_checkpoint(
    path: str | os.PathLike, checkpoint: Mapping[str, Any], save: Callable[[Any, str], None] = torch.save
) -> None:
    """Save a checkpoint atomically, on the disk before it has its name.

    Args:
        path: The file to write.
        checkpoint: What to save.
        save: What writes it to a file name. Defaults to :func:`torch.save`.
    """
    with write_atomically(path, sync=True) as temporary:
        save(dict(checkpoint), str(temporary))
