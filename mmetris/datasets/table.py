"""Folders of images and masks with a table of sentences: the data that people make themselves."""

from __future__ import annotations

import contextlib
import csv
import io
import ntpath
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator
from types import NoneType
from typing import Any

import cv2
import mmengine.fileio as fileio
import numpy as np
from mmengine.fileio import join_path
from PIL import Image
from pycocotools import mask as coco_mask

from ..registry import DATASETS
from ..utils.files import read_bytes
from ..utils.image_io import FORMATS
from ..utils.text_files import decode_text
from .listed import ListedRefDataset
from .refer import image_key, is_held_out, parse_json_lines
from .segmentation import whole_number

REQUIRED = ('image', 'mask', 'sentence')
JSON_LINES = ('.jsonl', '.ndjson')


def read_table(path: str, backend_args: dict | None = None) -> list[dict[str, Any]]:
    """Rows of a table.

    Args:
        path: CSV with a head line (``.csv``, with semicolons too; ``.tsv`` with tabs), or JSON Lines (``.jsonl``,
            ``.ndjson``), as :func:`~mmetris.utils.text_files.read_text` reads text.
        backend_args: Arguments of MMEngine's file backend.

    Returns:
        One dict for each row, with ``row``, the number of its line in the file, 1-based.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is none of these, has no rows, or lacks a column; the message names file and line.
    """
    if not fileio.exists(path, backend_args=backend_args):
        raise FileNotFoundError(f'{path} does not exist. Expected there: a table with {", ".join(REQUIRED)}')
    ending = os.path.splitext(path)[1].lower()
    if ending not in ('.csv', '.tsv', *JSON_LINES):
        raise ValueError(f'{path} is no table: its name must end with .csv, .tsv, {" or ".join(JSON_LINES)}')
    text = decode_text(read_bytes(path, backend_args), path)
    rows = list(_json_rows(path, text) if ending in JSON_LINES else _csv_rows(path, text, ending))
    if not rows:
        raise ValueError(f'{path} has no rows')
    for row in rows:
        if missing := [name for name in REQUIRED if name not in row]:
            raise ValueError(
                f'{path}, line {row["row"]}: no column {", ".join(missing)}; there are '
                f'{", ".join(name for name in row if name != "row")}'
            )
    return rows


def _csv_rows(path: str, text: str, ending: str) -> Iterator[dict[str, Any]]:
    head = text.split('\n', 1)[0]
    # Spreadsheets of many countries put semicolons, because a comma stands in their numbers.
    delimiter = '\t' if ending == '.tsv' else ';' if ';' in head and ',' not in head else ','
    reader = csv.DictReader(io.StringIO(text, newline=''), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        if len(set(names)) < len(names):
            raise ValueError(f'{path}, line 1: a column is there twice: {", ".join(names)}')
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f'{path}, line {reader.line_num}: not as many cells as the first line has names')
            yield {**{(name or '').strip(): value for name, value in row.items()}, 'row': reader.line_num}
    except csv.Error as error:
        # The line that could not be read, while the reader of rows still tells the one before.
        raise ValueError(f'{path}, line {reader.reader.line_num}: {error}') from error


def _json_rows(path: str, text: str) -> Iterator[dict[str, Any]]:
    for number, row in parse_json_lines(text, path):
        if not isinstance(row, dict):
            raise ValueError(f'{path}, line {number}: a {type(row).__name__}, but an object with names is expected')
        yield {**row, 'row': number}


@DATASETS.register_module()
class TableRefDataset(ListedRefDataset):
    """Referring segmentation from folders and a table, without any conversion.

    ::

        images/a.jpg    masks/a_1.png    sentences.csv:    image,mask,sentence,split
                                                           a.jpg,a_1.png,the man in the red coat,train

    A mask is an image of one channel (or of equal ones), as large as its picture: every pixel but 0 is inside. Where
    several objects are in one file, each with a number of its own, the column ``mask_id`` says which one is meant. An
    empty ``mask`` means that the sentence means nothing in the image (``no_target``). Rows of the same image and mask
    are sentences of one object. All is checked when the table is read, and named with its line.

    Args:
        data_root: Folder that the other paths are relative to.
        ann_file: The table, see :func:`read_table`. Defaults to ``'sentences.csv'``.
        data_prefix: Folders of images and masks, ``dict(img_path=..., seg_map_path=...)``. Defaults to ``'images/'``
            and ``'masks/'``.
        split: Rows with this in their column ``split``. None: all rows. Defaults to ``'train'``.
        **kwargs: The other arguments of :class:`RefCocoDataset` but ``split_file`` and ``text_field``.

    Raises:
        FileNotFoundError: If the table, an image or a mask is missing.
        ValueError: If a row is not as it should be; the message names file and line.
    """

    def __init__(
        self,
        data_root: str = '',
        ann_file: str = 'sentences.csv',
        data_prefix: dict = dict(img_path='images/', seg_map_path='masks/'),  # noqa: B006  BaseDataset copies it
        split: str | None = 'train',
        **kwargs: Any,
    ) -> None:
        self._last_mask: tuple[str, np.ndarray] | None = None
        super().__init__(data_root, ann_file, data_prefix, split or '', **kwargs)

    def split_names(self) -> list[str]:
        """Names in the column ``split``, in order of appearance; none without that column."""
        return [name for name in dict.fromkeys(row.get('split') for row in self._table()) if isinstance(name, str)]

    def _table(self) -> list[dict]:
        return read_table(self._file_of(self.split), self.backend_args)

    def _where(self, row: dict) -> str:
        """A row in words, for messages."""
        return f'{self.ann_file}, line {row["row"]}'

    def _rows_of_split(self, split: str) -> list[dict]:
        rows = self._table()
        if not split:
            return rows
        if rows and not any('split' in row for row in rows):
            raise ValueError(f'{self.ann_file} has no column split; give split=None to take all rows')
        for row in rows:
            if not isinstance(row.get('split'), str):
                raise ValueError(f'{self._where(row)}: split is {row.get("split")!r}, but a name is expected')
        selected = [row for row in rows if row['split'] == split]
        if not selected:
            present = ', '.join(dict.fromkeys(row['split'] for row in rows))
            raise ValueError(f'{self.ann_file} has no split {split!r}. Present: {present or "none"}')
        return selected

    def _objects_of_split(self, split: str) -> Iterable[dict]:
        objects: dict[tuple, dict] = {}
        for row in self._rows_of_split(split):
            where = self._where(row)
            sentence = row['sentence']
            if not isinstance(sentence, str) or not sentence.strip():
                raise ValueError(f'{where}: the sentence is empty ({sentence!r})')
            for name in ('image', 'mask', 'mask_id'):
                if not isinstance(row.get(name), (str, int, float, NoneType)):
                    raise ValueError(f'{where}: {name} is a {type(row[name]).__name__}')
            key = (row['image'], row['mask'] or None, row.get('mask_id') or None)
            if key not in objects:
                objects[key] = self._object_of(row, where, len(objects))
            objects[key]['expressions'].append(sentence)
            objects[key]['sent_ids'].append(row['row'])
        self._last_mask = None
        return objects.values()

    def _object_of(self, row: dict, where: str, number: int) -> dict:
        img_path = self._path(row['image'], 'img_path', f'{where}: image')
        height, width = self._size_of(img_path, f'{where}: image')
        mask = np.zeros((height, width), np.uint8)
        mask_id = row.get('mask_id')
        if row['mask']:
            mask_path = self._path(row['mask'], 'seg_map_path', f'{where}: mask')
            values = self._numbers_of(mask_path, where)
            if values.shape != (height, width):
                raise ValueError(
                    f'{where}: the mask {mask_path} has {values.shape[0]} x {values.shape[1]} pixels (H x W), but its '
                    f'image has {height} x {width}'
                )
            mask[self._inside(values, mask_id, where, mask_path)] = 1
        elif mask_id not in (None, ''):
            raise ValueError(f'{where}: there is a mask_id ({mask_id!r}), but no mask')
        return dict(
            img_path=img_path,
            img_id=row['image'],
            height=height,
            width=width,
            ref_id=number,
            ann_id=number,
            category_id=None,
            segmentation=coco_mask.encode(np.asfortranarray(mask)),
            no_target=not row['mask'],
            expressions=[],
            sent_ids=[],
        )

    def _numbers_of(self, path: str, where: str) -> np.ndarray:
        """A mask's numbers (H, W); the last file's are kept: the objects of a label map follow each other."""
        if self._last_mask is None or self._last_mask[0] != path:
            values = _numbers(self._get(path, f'{where}: mask'), f'{where}: mask {path}')
            if values.ndim == 3:
                raise ValueError(
                    f'{where}: the mask {path} has {values.shape[2]} channels that differ, but one number for each '
                    'pixel is expected'
                )
            self._last_mask = path, values
        return self._last_mask[1]

    @staticmethod
    def _inside(values: np.ndarray, mask_id: Any, where: str, path: str) -> np.ndarray:
        if mask_id in (None, ''):
            return values != 0
        try:
            number = whole_number(float(mask_id))
        except (TypeError, ValueError):
            number = None
        if number is None or number < 1:
            raise ValueError(f'{where}: mask_id {mask_id!r} is no positive whole number')
        inside = values == number
        if not inside.any():
            present = ', '.join(map(str, np.unique(values)[:10]))
            raise ValueError(f'{where}: no pixel of {path} has the value {number}; there are {present}')
        return inside

    def _path(self, name: Any, prefix: str, what: str) -> str:
        if not isinstance(name, str):
            raise ValueError(f'{what} is {name!r}, but the name of a file is expected')
        if not name.strip():
            raise ValueError(f'{what} is empty')
        if posixpath.isabs(name) or ntpath.isabs(name) or '..' in name.replace('\\', '/').split('/'):
            raise ValueError(f'{what} {name!r} must be a path inside of {self.data_prefix[prefix]}')
        return join_path(self.data_prefix[prefix], name)

    def _images_of_split(self, split: str) -> Iterable[str]:
        return self._keys_of(self._table(), lambda name: name == split)

    def held_out_images(self) -> frozenset[str]:
        """See :meth:`ListedRefDataset.held_out_images`; the table is read once for all splits."""
        if self._held_out_images is None:
            self._held_out_images = frozenset(self._keys_of(self._table(), is_held_out))
        return self._held_out_images

    def _keys_of(self, rows: Iterable[dict], is_meant: Callable[[str], bool]) -> Iterator[str]:
        """Keys of the images of those splits that are meant."""
        for row in rows:
            name, image = row.get('split'), row['image']
            if isinstance(name, str) and isinstance(image, str) and is_meant(name):
                yield image_key(join_path(self.data_prefix['img_path'], image))


def _numbers(data: bytes, what: str) -> np.ndarray:
    """A mask's numbers as they are in the file; of one with a palette (VOC's) too, whose colours OpenCV would give.

    Returns:
        (H, W); (H, W, C) where the colours differ.
    """
    with contextlib.suppress(OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.mode == 'P':
                return np.asarray(image)
            if image.mode == '1':
                return np.asarray(image, np.uint8)
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise ValueError(f'{what} cannot be read as an image')
    # Grey that was saved as colour; opacity says nothing about objects.
    if values.ndim == 3 and (values[..., :3] == values[..., :1]).all():
        return values[..., 0]
    return values
