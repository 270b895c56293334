"""Code of ``projects/``, which stands in a checkout beside the package and is no part of it: who reads a config that
imports it need not start in the checkout."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from mmetris.package import find_root

FOLDER = 'projects'
Read = TypeVar('Read')


class ProjectNotFoundError(ImportError):
    """Code of ``projects/`` that is nowhere."""


def with_projects(read: Callable[[], Read], config: str | os.PathLike) -> Read:
    """Read something that may import code of ``projects/``; if that fails, once more with the checkout on ``sys.path``.

    That is the checkout of the config, of the current folder, or of mmetris itself.

    Args:
        read: What reads it.
        config: The config file.

    Raises:
        ProjectNotFoundError: If the code is in none of them; the message says what to do.
    """
    try:
        return read()
    except ImportError as error:
        wanted = _wanted(error)
        if wanted is None:
            raise
        before = list(sys.path)
        # Behind all others: it is for projects alone.
        sys.path += [root for root in dict.fromkeys(map(str, _checkouts(config))) if root not in sys.path]
        importlib.invalidate_caches()
        try:
            return read()
        except ImportError as second:
            sys.path[:] = before
            if _wanted(second) is None:
                raise
            raise ProjectNotFoundError(
                f'it needs {wanted}, which a checkout of mmetris has in its folder {FOLDER}/: start in the root of the '
                'checkout, or set PYTHONPATH to it'
            ) from second


def _wanted(error: BaseException | None) -> str | None:
    """The module of ``projects/`` that an error misses, or one of those that led to it."""
    while error is not None:
        name = error.name if isinstance(error, ModuleNotFoundError) else None
        if name is not None and name.partition('.')[0] == FOLDER:
            return name
        error = error.__cause__ or error.__context__
    return None


def _checkouts(config: str | os.PathLike) -> Iterator[Path]:
    """Folders that hold ``projects/``."""
    yield from (folder.parent for folder in Path(config).resolve().parents if folder.name == FOLDER)
    if (Path.cwd() / FOLDER).is_dir():
        yield Path.cwd()
    own = find_root(FOLDER)
    if own is not None:
        yield own
