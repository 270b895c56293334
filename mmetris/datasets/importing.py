"""Exports of annotation tools become folders of masks with a table of sentences, which
:class:`~mmetris.datasets.table.TableRefDataset` reads. The pictures stay where they are, as they are."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from pycocotools import mask as coco_mask

from ..utils.checkpoint_io import write_atomically
from ..utils.file_names import FreeNames, legal_stem
from ..utils.text_files import writable
from .exports import READERS, TEXT_FIELDS, Export, Picture, Region
from .table import JSON_LINES

COLUMNS = ('image', 'mask', 'sentence', 'split')


class NoSentenceError(ValueError):
    """No region has a sentence."""


class Rows(NamedTuple):
    """What was written.

    Attributes:
        pictures: How many pictures have a sentence.
        masks: How many masks there are.
        sentences: Rows of the table, by split.
    """

    pictures: int
    masks: int
    sentences: dict[str, int]


def masks_of(picture: Picture) -> list[tuple[list[str], dict]]:
    """Sentences and masks of a picture: each sentence means the union of all objects that it was written to, and
    sentences that mean the same objects share a mask.

    Args:
        picture: The picture.

    Returns:
        For each mask its sentences and its RLE.
    """
    objects: dict[tuple, list[Region]] = {}
    for index, region in enumerate(picture.regions):
        key = ('alone', index) if region.group is None else ('group', region.group)
        objects.setdefault(key, []).append(region)
    meant: dict[str, list[int]] = {}
    for number, regions in enumerate(objects.values()):
        for sentence in dict.fromkeys(text for region in regions for text in region.sentences):
            meant.setdefault(sentence, []).append(number)
    by_target: dict[tuple[int, ...], list[str]] = {}
    for sentence, numbers in meant.items():
        by_target.setdefault(tuple(numbers), []).append(sentence)
    rles = [coco_mask.merge([region.rle for region in regions]) for regions in objects.values()]
    return [(texts, coco_mask.merge([rles[index] for index in target])) for target, texts in by_target.items()]


def split_of(name: str, shares: Mapping[str, float], other: str) -> str:
    """The split of a picture, which follows from its name alone: more pictures move none to another split.

    Args:
        name: The picture's name.
        shares: Of all pictures, how many come into which split, 0 to 1.
        other: The split of the others.
    """
    place = int.from_bytes(hashlib.sha256(name.encode('utf-8', 'surrogateescape')).digest()[:8], 'big') / 2**64
    for split, share in shares.items():
        if place < share:
            return split
        place -= share
    return other


def write_table_folder(
    pictures: Iterable[Picture],
    out: str | os.PathLike,
    split_of_picture: Callable[[Picture], str],
    table: str = 'sentences.csv',
    overwrite: bool = False,
) -> Rows:
    """Write ``masks/*.png`` (0 and 255) and a table of sentences.

    All is written aside first, and comes to its place when nothing can fail any more, the table last: after an error
    the folder is as it was.

    Args:
        pictures: The pictures; what is wrong with them is raised while they are read.
        out: Folder to write to; made if missing.
        split_of_picture: Which split a picture belongs to.
        table: File name of the table: ``.csv``, ``.tsv`` or ``.jsonl``. Defaults to ``'sentences.csv'``.
        overwrite: Whether files that are there are replaced. Defaults to False.

    Raises:
        FileExistsError: If a file is there already and ``overwrite`` is not given.
        NoSentenceError: If there is no sentence at all.
        ValueError: If the table's name has another ending.
    """
    out = Path(out)
    if Path(table).suffix.lower() not in ('.csv', '.tsv', *JSON_LINES) or Path(table).name != table:
        raise ValueError(f'the table {table!r} needs a file name that ends with .csv, .tsv or .jsonl')
    if (out / table).exists() and not overwrite:
        raise FileExistsError(f'{out / table} is there already; --overwrite replaces it and the masks it needs')
    was_there = out.exists()
    out.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=out, prefix='.import_'))
    try:
        names, rows, masks = FreeNames(), [], 0
        num_pictures = 0
        for picture in pictures:
            found = masks_of(picture)
            num_pictures += bool(found)
            stem = legal_stem(str(Path(picture.name).with_suffix('')).replace('/', '_'))
            for number, (texts, rle) in enumerate(found, 1):
                mask = f'{names.of(f"{stem}_{number}")}.png'
                Image.fromarray(coco_mask.decode(rle) * 255).save(aside / mask)
                masks += 1
                split = split_of_picture(picture)
                rows += [dict(image=picture.name, mask=mask, sentence=writable(text), split=split) for text in texts]
        if not rows:
            raise NoSentenceError('there is no sentence')
        written = sorted(path.name for path in aside.iterdir())
        there = [name for name in written if (out / 'masks' / name).exists()]
        if there and not overwrite:
            raise FileExistsError(
                f'{out / "masks" / there[0]} is there already, and {len(there) - 1} more; --overwrite replaces them'
            )
        (out / 'masks').mkdir(exist_ok=True)
        for name in written:
            (aside / name).replace(out / 'masks' / name)
        with write_atomically(out / table) as temporary:
            temporary.write_text(_as_table(rows, Path(table).suffix.lower()), encoding='utf-8', newline='')
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if not was_there and not any(out.iterdir()):
            out.rmdir()
    return Rows(num_pictures, masks, dict(Counter(row['split'] for row in rows)))


def import_export(
    kind: str,
    source: str | os.PathLike,
    out: str | os.PathLike,
    images: str | os.PathLike | None = None,
    text: str | None = None,
    separator: str | None = None,
    table: str = 'sentences.csv',
    split: str | None = None,
    shares: Mapping[str, float] | None = None,
    overwrite: bool = False,
) -> tuple[Export, Rows]:
    """Read an export and write it as a folder with a table of sentences.

    Args:
        kind: Which tool it comes from: 'labelme', 'cvat' or 'coco'.
        source: The export.
        out: Folder to write to.
        images: Folder of the pictures. Defaults to None: where the tool puts them.
        text: Where the sentences are, see :class:`Export`. Defaults to None.
        separator: What separates sentences, see :class:`Export`. Defaults to None.
        table: File name of the table. Defaults to ``'sentences.csv'``.
        split: Split of all pictures, or of those that ``shares`` leave. Defaults to None: what the export says, or else
            'train'.
        shares: Shares of the pictures for other splits, see :func:`split_of`. Defaults to None.
        overwrite: Whether files that are there are replaced. Defaults to False.

    Returns:
        The export, with what was left out of it, and what was written.

    Raises:
        FileExistsError: If a file would be replaced.
        FileNotFoundError, ValueError: If the export is not complete, or not as it should be.
    """
    export = Export(source, images, text, separator)

    def choose(picture: Picture) -> str:
        if shares:
            return split_of(picture.name, shares, split or 'train')
        return split or picture.split or 'train'

    try:
        return export, write_table_folder(READERS[kind](export), out, choose, table, overwrite)
    except NoSentenceError as error:
        where = f'named {text!r}' if text else f'named {", ".join(TEXT_FIELDS)}'
        seen = ', '.join(name for name, _ in export.seen_fields.most_common(12)) or 'none'
        raise ValueError(
            f'{source}: no region has a field or attribute with text {where}. With text are: {seen}; --text NAME says '
            'which one is the sentence, and --text label takes the name of the class'
        ) from error


def _as_table(rows: list[dict[str, str]], ending: str) -> str:
    if ending in JSON_LINES:
        return ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)
    file = io.StringIO(newline='')
    writer = csv.DictWriter(file, COLUMNS, delimiter='\t' if ending == '.tsv' else ',', lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
