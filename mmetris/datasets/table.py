"""Folders of images and masks with a table of sentences: the data that people make themselves."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import posixpath
from collections.abc import Iterator
from typing import Any

import cv2
import mmengine.fileio as fileio
import numpy as np
from mmengine.fileio import join_path
from PIL import Image
from pycocotools import mask as coco_mask

from ..registry import DATASETS
from ..utils.text_files import decode_text
from .refcoco import RefCocoDataset
from .refer import image_key
from .segmentation import whole_number

REQUIRED = ('image', 'mask', 'sentence')
JSON_LINES = ('.jsonl', '.ndjson')
ORIENTATION = 0x0112  # EXIF: 5 to 8 are turned by a quarter.


def read_table(path: str, backend_args: dict | None = None) -> list[dict[str, Any]]:
    """Rows of a table.

    Args:
        path: CSV with a head line (``.csv``; ``.tsv`` with tabs), or JSON Lines (``.jsonl``, ``.ndjson``), as
            :func:`~mmetris.utils.text_files.read_text` reads text.
        backend_args: Arguments of MMEngine's file backend.

    Returns:
        One dict for each row, with ``row``, the number of its line in the file, 1-based.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is none of these, or a column is missing; the message names file and line.
    """
    if not fileio.exists(path, backend_args=backend_args):
        raise FileNotFoundError(f'{path} does not exist. Expected there: a table with {", ".join(REQUIRED)}')
    ending = os.path.splitext(path)[1].lower()
    if ending not in ('.csv', '.tsv', *JSON_LINES):
        raise ValueError(f'{path} is no table: its name must end with .csv, .tsv, {" or ".join(JSON_LINES)}')
    text = decode_text(fileio.get(path, backend_args=backend_args), path)
    rows = list(_json_rows(path, text) if ending in JSON_LINES else _csv_rows(path, text, ending))
    for row in rows:
        if missing := [name for name in REQUIRED if name not in row]:
            raise ValueError(
                f'{path}, line {row["row"]}: no column {", ".join(missing)}; there are '
                f'{", ".join(name for name in row if name != "row")}'
            )
    return rows


def _csv_rows(path: str, text: str, ending: str) -> Iterator[dict[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=''), delimiter='\t' if ending == '.tsv' else ',', strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f'{path}, line {reader.line_num}: not as many cells as the first line has names')
            yield {**{(name or '').strip(): value for name, value in row.items()}, 'row': reader.line_num}
    except csv.Error as error:
        raise ValueError(f'{path}, line {reader.line_num}: {error}') from error


def _json_rows(path: str, text: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f'{path}, line {number}: no valid JSON: {error}') from error
        if not isinstance(row, dict):
            raise ValueError(f'{path}, line {number}: a {type(row).__name__}, but an object with names is expected')
        yield {**row, 'row': number}


@DATASETS.register_module()
class TableRefDataset(RefCocoDataset):
    """Referring segmentation from folders and a table, without any conversion.

    ::

        images/a.jpg    masks/a_1.png    sentences.csv:    image,mask,sentence,split
                                                           a.jpg,a_1.png,the man in the red coat,train

    A mask is an image of one channel, as large as its picture: every pixel but 0 is inside. Where several objects are
    in one file, each with a number of its own, the column ``mask_id`` says which one is meant. An empty ``mask`` means
    that the sentence means nothing in the image (``no_target``). Rows of the same image and mask are sentences of one
    object. All is checked when the table is read, and named with its line.

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
        super().__init__(data_root, ann_file, split_file=ann_file, data_prefix=data_prefix, split=split or '', **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read the table, check it, and make the records of the split in its order."""
        rows = read_table(self.ann_file, self.backend_args)
        objects: dict[tuple, dict] = {}
        sizes: dict[str, tuple[int, int]] = {}
        for row in self._rows_of_split(rows):
            where = f'{self.ann_file}, line {row["row"]}'
            sentence = row['sentence']
            if not isinstance(sentence, str) or not sentence.strip():
                raise ValueError(f'{where}: the sentence is empty ({sentence!r})')
            key = (row['image'], row['mask'] or None, row.get('mask_id') or None)
            if key not in objects:
                objects[key] = self._object_of(row, where, len(objects), sizes)
            objects[key]['expressions'].append(sentence)
            objects[key]['sent_ids'].append(row['row'])
        self._held_out_images = self._held_out(rows)
        return self._samples_of(list(objects.values()))

    def _rows_of_split(self, rows: list[dict]) -> list[dict]:
        if not self.split:
            return rows
        if rows and 'split' not in rows[0]:
            raise ValueError(f'{self.ann_file} has no column split; give split=None to take all rows')
        selected = [row for row in rows if row['split'] == self.split]
        if not selected:
            present = ', '.join(str(name) for name in dict.fromkeys(row['split'] for row in rows))
            raise ValueError(f'{self.ann_file} has no split {self.split!r}. Present: {present or "none"}')
        return selected

    def _object_of(self, row: dict, where: str, number: int, sizes: dict[str, tuple[int, int]]) -> dict:
        img_path = self._path(row['image'], 'img_path', f'{where}: image')
        if img_path not in sizes:
            sizes[img_path] = _upright_hw(self._get(img_path, f'{where}: image'), f'{where}: image {img_path}')
        height, width = sizes[img_path]
        mask = np.zeros((height, width), np.uint8)
        if row['mask']:
            mask_path = self._path(row['mask'], 'seg_map_path', f'{where}: mask')
            values = _numbers(self._get(mask_path, f'{where}: mask'), f'{where}: mask {mask_path}')
            if values.ndim != 2:
                raise ValueError(f'{where}: the mask {mask_path} has {values.shape[2]} channels, but one is expected')
            if values.shape != (height, width):
                raise ValueError(
                    f'{where}: the mask {mask_path} has {values.shape[0]} x {values.shape[1]} pixels (H x W), but its '
                    f'image has {height} x {width}'
                )
            mask[self._inside(values, row.get('mask_id'), where, mask_path)] = 1
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
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f'{what} is empty')
        if posixpath.isabs(name) or os.path.isabs(name) or '..' in name.replace('\\', '/').split('/'):
            raise ValueError(f'{what} {name!r} must be a path inside of {self.data_prefix[prefix]}')
        return join_path(self.data_prefix[prefix], name)

    def _get(self, path: str, what: str) -> bytes:
        if not fileio.exists(path, backend_args=self.backend_args):
            raise FileNotFoundError(f'{what} {path} does not exist')
        return fileio.get(path, backend_args=self.backend_args)

    def _held_out(self, rows: list[dict]) -> frozenset[str]:
        return frozenset(
            image_key(join_path(self.data_prefix['img_path'], row['image']))
            for row in rows
            if isinstance(row.get('split'), str) and row['split'].startswith(('val', 'test'))
        )

    def held_out_images(self) -> frozenset[str]:
        """Keys of the images in every split of the table that is there to test on ('val...', 'test...')."""
        if self._held_out_images is None:
            return self._held_out(read_table(self.ann_file, self.backend_args))
        return self._held_out_images


def _upright_hw(data: bytes, what: str) -> tuple[int, int]:
    """Height and width of an image as it is loaded, turned by what its camera noted; its pixels are not decoded."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION, 1) >= 5
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f'{what} cannot be read as an image: {error}') from error
    return (width, height) if turned else (height, width)


def _numbers(data: bytes, what: str) -> np.ndarray:
    """A mask's numbers as they are in the file; of one with a palette (VOC's) too, whose colours OpenCV would give."""
    with contextlib.suppress(OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        with Image.open(io.BytesIO(data)) as image:
            if image.mode == 'P':
                return np.asarray(image)
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise ValueError(f'{what} cannot be read as an image')
    return values
