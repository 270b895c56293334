"""Text files that people write, in whatever editor: a byte order mark, UTF-16, line ends of any system."""

from __future__ import annotations

import codecs
import os
import re
from pathlib import Path

from .files import check_ordinary

# Surrogates stand for bytes of a file name, or of a command line, that are no UTF-8.
_NOT_UTF8 = re.compile('[\ud800-\udfff]')
# UTF-32 is left out: no editor writes it, and its mark in one order begins with that of UTF-16.
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: str | os.PathLike) -> str:
    """Content of a text file: UTF-8, with or without a byte order mark, or UTF-16 with one; line ends become ``\\n``.

    Args:
        path: The file.

    Raises:
        ValueError: If it is neither, which the message tells by file and line; or no ordinary file.
    """
    check_ordinary(path)
    return decode_text(Path(path).read_bytes(), path)


def decode_text(content: bytes, path: str | os.PathLike) -> str:
    """The same of bytes that were read in another way.

    Args:
        content: Content of the file.
        path: What the file is called, for the message.

    Raises:
        ValueError: See :func:`read_text`.
    """
    try:
        text = content.decode('utf-16' if content.startswith(_UTF16_MARKS) else 'utf-8-sig')
    except UnicodeDecodeError as error:
        line = content.count(b'\n', 0, error.start) + 1
        raise ValueError(f'{path}, line {line}: this is no UTF-8; save the file as UTF-8') from error
    return text.replace('\r\n', '\n').replace('\r', '\n')


def writable(text: str) -> str:
    """Text that any file takes: what is no Unicode, such as the bytes of a file name in Latin-1, is shown as �.

    Args:
        text: Any string, say a file name.
    """
    return _NOT_UTF8.sub('\N{REPLACEMENT CHARACTER}', text)
