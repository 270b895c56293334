"""What a training leaves in its work folder: which checkpoint to resume from, and which epochs are scored."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import torch
from mmengine.logging import print_log

from mmetris.utils.checkpoint_io import (
    OUTDATED,
    UNFINISHED,
    check_finite,
    check_sums,
    read_checkpoint,
    remove,
    unfinished_path,
    write_atomically,
)

LAST_CHECKPOINT = 'last_checkpoint'  # MMEngine's name.
SCORES = 'validation_scores.json'
IN_USE = '.in_use'


def out_dir_of(out_dir: str | os.PathLike | None, work_dir: str) -> str:
    """Where ``CheckpointHook`` puts the checkpoints.

    Args:
        out_dir: Its argument.
        work_dir: The runner's work folder.
    """
    if out_dir is None or str(out_dir) == work_dir:
        return work_dir
    return os.path.join(out_dir, os.path.basename(work_dir.rstrip(os.sep)))


def problem_of(path: Path) -> str | None:
    """Why a checkpoint is not whole or not finite, or None if it is.

    Args:
        path: A file, or a folder of DeepSpeed's or of FSDP's shares, of which the checksums alone are compared.
    """
    if not path.exists():
        return f'{path} is not there'
    try:
        if path.is_dir():
            files = [file for file in path.rglob('*') if file.is_file()]
            for file in files:
                check_sums(file)
            return None if files else f'{path} is empty'
        check_finite(read_checkpoint(path).get('state_dict', {}), str(path))
    except ValueError as error:
        return str(error)
    return None


class FolderInUseError(RuntimeError):
    """Another training writes into the work folder."""


@contextmanager
def held(work_dir: str | os.PathLike) -> Iterator[None]:
    """Within it no other training can hold the folder: two would remove each other's checkpoints.

    The system lets go of it when the process ends, however it ends. Where it knows no such locks, as on Windows and on
    some network drives, nothing is held.

    Args:
        work_dir: The work folder; made if it is missing.

    Raises:
        FolderInUseError: If another process holds it.
    """
    path = Path(work_dir) / IN_USE
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path) as file:
        file.truncate(0)
        file.write(f'{os.getpid()}\n')
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _locked(path: Path) -> TextIO:
    """The file in which a training says that it holds the folder, locked where the system can."""
    while True:
        file = path.open('a+')
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            with file:
                file.seek(0)
                pid = file.read().strip() or '?'
            raise FolderInUseError(
                f'{path.parent} is in use: process {pid} trains into it. Take another --work-dir'
            ) from error
        except (ImportError, OSError):
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # Who held it removed it after it was opened here: its lock would keep nobody out.


def remove_training(work_dir: str | os.PathLike) -> None:
    """Remove the checkpoints of a training and what names them; logs stay.

    Args:
        work_dir: The work folder.
    """
    folder = Path(work_dir)
    remove_unfinished(folder)
    # First what names them: a kill in between leaves nothing to resume that is half removed.
    for pattern in (LAST_CHECKPOINT, SCORES, 'epoch_*.pth', 'iter_*.pth', 'best_*.pth'):
        for path in folder.glob(pattern):
            remove(path)


def find_resumable(
    work_dir: str | Path, out_dir: str | Path | None = None, say: Callable[[str], Any] = print_log
) -> Path | None:
    """The checkpoint that a training goes on from: the one that ``last_checkpoint`` names, or the newest whole one.

    The name counts before the folder that stands in front of it, which is another's when the work folder was copied,
    and nobody's when it was moved. A file with weights alone, such as the best one, does not resume a training.

    Args:
        work_dir: The work folder.
        out_dir: Where the checkpoints are. Defaults to None: in the work folder.
        say: Told about each checkpoint that was passed over, and which one is taken instead.

    Returns:
        The checkpoint, or None where there is none yet.

    Raises:
        ValueError: If there is something to resume from but nothing of it is whole.
    """
    folder = Path(out_dir or work_dir)
    _restore_outdated(folder)
    named_by = Path(work_dir) / LAST_CHECKPOINT
    named = Path(named_by.read_text().strip() or 'nothing') if named_by.is_file() else None
    problems = []
    first = None
    if named is not None:
        first = folder / named.name
        if not first.exists() and named.exists():
            say(f'{named_by} names {named}, in another folder: it is taken, since {folder} has none of its name')
            first = named
        problem = problem_of(first)
        if problem is None:
            return first
        problems.append(f'{named_by} names {named}: {problem}')
    for path in _newest_first(folder):
        problem = None if path == first else problem_of(path)
        if path != first and problem is None:
            for passed in problems:
                say(passed)
            reason = '' if named is not None else f'{named_by} is not there; '
            say(f'{reason}the newest whole checkpoint of {folder} is taken: {path.name}')
            return path
        if problem is not None:
            problems.append(problem)
    if problems:
        raise ValueError('; '.join(problems) + f'; no other whole checkpoint is in {folder}')
    return None


def _newest_first(folder: Path) -> list[Path]:
    """Checkpoints that hold the state of a training, or cannot be read; by the time at which they were saved."""
    found = []
    for path in folder.glob('*'):
        if path.name.startswith(('.', 'best_')) or path.suffix not in ('.pth', '.pt'):
            continue
        saved = (time.strftime('%Y%m%d_%H%M%S', time.localtime(path.stat().st_mtime)), 0)
        if path.is_file():
            try:
                # The weights stay on the disk.
                content = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
            except Exception:  # noqa: S112, BLE001  Whatever broken bytes lead to: who reads it wholly says what is wrong.
                content = dict(meta={}, message_hub={}, optimizer={})
            if not isinstance(content, Mapping) or not {'meta', 'message_hub', 'optimizer'} <= set(content):
                continue
            meta = content['meta']
            # Not the file's own time, which copying changes.
            saved = (str(meta.get('time', saved[0])), int(meta.get('iter', 0)))
        found.append((saved, path))
    return [path for _, path in sorted(found, reverse=True)]


def remove_unfinished(folder: Path) -> list[Path]:
    """Remove what a training was writing when it was killed.

    Args:
        folder: The folder of its checkpoints.

    Returns:
        What was removed.
    """
    _restore_outdated(folder)
    found = sorted(folder.glob(f'.*{UNFINISHED}'))
    for path in found:
        remove(path)
    return found


def _restore_outdated(folder: Path) -> None:
    """Give old folders their names again that were taken away from them for new ones which never got them."""
    for path in folder.glob(f'.*{OUTDATED}'):
        whole = path.with_name(path.name[1:].removesuffix(OUTDATED))
        if not whole.exists():
            with suppress(FileNotFoundError):  # Another process of the training did it.
                path.replace(whole)


def write_text(path: Path, text: str) -> None:
    """Write a small file so that it has its old content or its new one whenever the process is killed.

    Args:
        path: The file.
        text: Its content.
    """
    with write_atomically(path, unfinished_path(path), sync=True) as temporary:
        temporary.write_text(text)


def read_scores(work_dir: str | Path) -> dict[int, dict[str, Any]]:
    """Scores of the validations that are over, by the number of iterations before them.

    Args:
        work_dir: The work folder.
    """
    try:
        return {int(step): scores for step, scores in json.loads((Path(work_dir) / SCORES).read_text()).items()}
    except (FileNotFoundError, ValueError, AttributeError):
        return {}


def write_scores(work_dir: str | Path, scores: Mapping[int, Mapping[str, Any]]) -> None:
    """Write what :func:`read_scores` reads.

    Args:
        work_dir: The work folder.
        scores: Scores by the number of iterations.
    """
    text = json.dumps({str(step): dict(named) for step, named in scores.items()}, indent=1, default=_plain)
    write_text(Path(work_dir) / SCORES, text + '\n')


def _plain(value: Any) -> Any:
    """NumPy's and PyTorch's numbers as Python's; anything else as text."""
    return (
        value.item()
        if getattr(value, 'size', None) == 1 or hasattr(value, 'numel') and value.numel() == 1
        else str(value)
    )
