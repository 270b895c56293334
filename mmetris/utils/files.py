"""Reading files that others have named: ordinary ones alone, since a pipe blocks its reader and a device has no end."""

from __future__ import annotations

import os
import re
import stat

_SCHEME = re.compile(r'([a-zA-Z][a-zA-Z0-9+.-]*):///?')


def scheme_of(source: str) -> str | None:
    """The scheme of an address, such as ``'https'``; None for a file name.

    Args:
        source: A file name or an address. A drive of Windows (``C://``) is none.
    """
    match = _SCHEME.match(source)
    return None if match is None or (os.name == 'nt' and len(match[1]) == 1) else match[1].lower()


def check_ordinary(path: str | os.PathLike) -> None:
    """Refuse what is there and is neither a file nor a folder: a pipe (FIFO), a device, a socket, or a link to one.

    Args:
        path: A path; nothing need be there.

    Raises:
        ValueError: If it is such a one.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return  # Whoever opens it says why it cannot.
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError(f'{path} is no ordinary file but a pipe, a device or a socket, and is not opened')


def read_bytes(path: str | os.PathLike, backend_args: dict | None = None) -> bytes:
    """Content of a file, by MMEngine's file backends.

    Args:
        path: A local path, or an address that one of the backends reads.
        backend_args: Arguments of the backend. Defaults to None: the one of the path.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no ordinary file.
    """
    from mmengine import fileio  # Takes seconds, which readers of local texts need not wait.

    if scheme_of(str(path)) is None:
        check_ordinary(path)
    return fileio.get(path, backend_args=backend_args)


__all__ = ['check_ordinary', 'read_bytes', 'scheme_of']
