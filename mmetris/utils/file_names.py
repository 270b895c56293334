"""Names of files that are written for pictures and sentences: legal on every system, and no two the same."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

# Not allowed on some system, or (surrogates) no Unicode; others, such as "#", are letters of addresses and of shells.
_ILLEGAL = re.compile(r'[^\w.,()+=@ -]')
# File systems take 255 bytes; numbers, an ending and what marks an unfinished file come behind.
MAX_STEM_BYTES = 150


@functools.lru_cache(maxsize=1024)  # The sentences of an image follow each other.
def file_stem(name: str) -> str:
    """The stem of a picture's name or address as a file name (no folder, no ending), at most 150 bytes long.

    Args:
        name: File name, path or address.
    """
    return legal_stem(PurePath(name).stem)


def legal_stem(text: str) -> str:
    """A text as a file name without ending; what some system does not take becomes an underscore.

    Args:
        text: Any text.
    """
    stem = _ILLEGAL.sub('_', text)
    while len(stem.encode()) > MAX_STEM_BYTES:
        stem = stem[: min(len(stem) - 1, MAX_STEM_BYTES)]
    return stem.strip('. ') or 'image'


def sample_name(data_sample: Mapping[str, Any]) -> str:
    """A file name (no folder, no ending) for one sentence of one image: ``COCO_train2014_000000000009_1234``.

    Args:
        data_sample: A data sample or record as a dict, or any object with ``get`` for its meta information.

    Returns:
        Its ``sample_name``, which a data set gives where names would repeat. Else the image's stem, followed by
        ``sent_id`` or else ``sample_idx`` where the sample carries one of them, so that several sentences of one image
        get different names.
    """
    if given := data_sample.get('sample_name'):
        return str(given)
    stem = file_stem(str(data_sample.get('img_path') or 'image'))
    for field in ('sent_id', 'sample_idx'):
        number = data_sample.get(field)
        # Joined sentences have a list of ids; their sample_idx serves better in a file's name.
        if number is not None and not isinstance(number, (list, tuple)):
            return f'{stem}_{number if isinstance(number, int) else legal_stem(str(number))}'
    return stem


class FreeNames:
    """File names that are still free: the second ``a`` becomes ``a_2``.

    Args:
        reserved: Names that are given only to those who ask for them first. Defaults to none.
    """

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        # Some file systems take a.png and A.png for the same.
        self._reserved = {name.casefold() for name in reserved}
        self._taken: set[str] = set()
        self._counts: dict[str, int] = {}

    def of(self, name: str) -> str:
        """A name that was not given before: this one, or with a number behind it."""
        free, key = name, name.casefold()
        count = self._counts.get(key, 1)
        while free.casefold() in self._taken or (count > 1 and free.casefold() in self._reserved):
            count += 1
            free = f'{name}_{count}'
        self._counts[key] = count
        self._taken.add(free.casefold())
        return free
