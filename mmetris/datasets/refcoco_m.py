"""RefCOCO-M: masks of RefCOCO's val split, drawn anew."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from typing import Any

from mmengine.fileio import join_path

from ..registry import DATASETS
from ..utils.files import read_bytes
from ..utils.text_files import decode_text
from .listed import ListedRefDataset
from .refer import image_key, load_json, parse_json_lines
from .segmentation import segmentation_to_rle, whole_number

# Masks and sentences, as the card of huggingface.co/datasets/moondream/refcoco-m counts them.
PUBLISHED = (2080, 5598)
SPLIT = 'val'
COLUMNS = ['file_name', 'samples']


@DATASETS.register_module()
class RefCocoMDataset(ListedRefDataset):
    """RefCOCO-M, to evaluate on: sentences of RefCOCO's val with exact masks in place of hand-drawn polygons.

    Read as published, from Parquet files (with the package pyarrow), or from the same records as JSON (a list, or one
    in each line): ``file_name`` and ``samples``, each with ``sentences`` and ``mask``, a compressed RLE. The images are
    COCO's train2014, and those in the Parquet files are not read.

    Args:
        data_root: Folder that the other paths are relative to.
        ann_file: The records; a pattern may name several files. Defaults to
            ``'refcoco-m/data/validation-*.parquet'``.
        data_prefix: Folder of the images. Defaults to ``dict(img_path='train2014/')``.
        split: 'val', the only one. Defaults to it.
        **kwargs: The other arguments of :class:`RefCocoDataset` but ``split_file`` and ``text_field``.

    Raises:
        FileNotFoundError: If a file is missing.
        ImportError: If Parquet files are given and pyarrow is not there.
        ValueError: If a record is not as it should be (the message names file and record), or another split is asked
            for.
    """

    def __init__(
        self,
        data_root: str = '',
        ann_file: str = 'refcoco-m/data/validation-*.parquet',
        data_prefix: dict = dict(img_path='train2014/'),  # noqa: B006  BaseDataset copies it
        split: str = SPLIT,
        **kwargs: Any,
    ) -> None:
        if split != SPLIT:
            raise ValueError(f'RefCOCO-M has the split {SPLIT!r} only, not {split!r}')
        super().__init__(data_root, ann_file, data_prefix, split, **kwargs)

    def split_names(self) -> list[str]:
        """'val'."""
        return [SPLIT]

    def published_differences(self) -> list[str]:
        """How many masks and sentences there are, where the published numbers are others."""
        samples = [sample for _, record in self._records() for sample in record['samples']]
        counts = len(samples), sum(len(sample['sentences']) for sample in samples)
        if counts == PUBLISHED:
            return []
        return [f'{counts[0]} masks and {counts[1]} sentences, published are {PUBLISHED[0]} and {PUBLISHED[1]}']

    def _files(self) -> list[str]:
        files = sorted(glob.glob(str(self.ann_file))) or [str(self.ann_file)]
        if not os.path.isfile(files[0]):
            raise FileNotFoundError(f"{files[0]} does not exist. Expected there: RefCOCO-M's records")
        return files

    def _records(self) -> Iterator[tuple[str, dict]]:
        """Each record with where it stands, in words; its keys and lists are there."""
        for path in self._files():
            for index, record in enumerate(_read_records(path, self.backend_args)):
                where = f'{path}: record {index}'
                if not isinstance(record, dict) or any(key not in record for key in COLUMNS):
                    raise ValueError(f'{where} has no {" or no ".join(COLUMNS)}')
                where += f' ({record["file_name"]})'
                if not isinstance(record['file_name'], str) or not isinstance(record['samples'], list):
                    raise ValueError(f'{where} needs a name and a list of samples')
                for sample in record['samples']:
                    if not isinstance(sample, dict) or not isinstance(sample.get('sentences'), list):
                        raise ValueError(f'{where} has a sample without a list of sentences')
                yield where, record

    def _objects_of_split(self, split: str) -> Iterable[dict]:
        objects: list[dict] = []
        number = 0
        for where, record in self._records():
            for sample in record['samples']:
                what = f'{where}, sample {sample.get("id")}'
                mask = sample.get('mask')
                size = mask.get('size') if isinstance(mask, dict) else None
                sides = [whole_number(side) for side in size] if isinstance(size, (list, tuple)) else []
                if len(sides) != 2 or any(side is None or side < 1 for side in sides):
                    raise ValueError(f'{what} has no mask with a size of two numbers of pixels')
                height, width = int(sides[0] or 0), int(sides[1] or 0)
                try:
                    rle = segmentation_to_rle(mask, height, width)
                except ValueError as error:
                    raise ValueError(f'{what}: the mask cannot be read: {error}') from error
                sentences = sample['sentences']
                if not sentences or any(not isinstance(text, str) or not text.strip() for text in sentences):
                    raise ValueError(f'{what} has an empty sentence, or none: {sentences!r}')
                objects.append(
                    dict(
                        img_path=join_path(self.data_prefix['img_path'], record['file_name']),
                        img_id=record.get('image_id', sample.get('image_id')),
                        height=height,
                        width=width,
                        ref_id=sample.get('id', len(objects)),
                        ann_id=sample.get('id', len(objects)),
                        category_id=None,
                        segmentation=rle,
                        expressions=list(sentences),
                        sent_ids=list(range(number, number + len(sentences))),
                    )
                )
                number += len(sentences)
        self._check_images(objects)
        return objects

    def _images_of_split(self, split: str) -> Iterable[str]:
        return (
            image_key(join_path(self.data_prefix['img_path'], record['file_name'])) for _, record in self._records()
        )


def _read_records(path: str, backend_args: dict | None) -> Iterable[Any]:
    ending = os.path.splitext(path)[1].lower()
    if ending == '.parquet':
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise ImportError(
                f'{path} is a Parquet file, which needs the package pyarrow: pip install pyarrow'
            ) from error
        try:
            return pyarrow.parquet.read_table(path, columns=COLUMNS).to_pylist()
        except (OSError, ValueError) as error:  # pyarrow's own errors are of these kinds.
            raise ValueError(f'{path} cannot be read as a Parquet file: {error}') from error
    if ending == '.json':
        records = load_json(path, backend_args)
        if not isinstance(records, list):
            raise ValueError(f'{path} holds a {type(records).__name__}, but a list of records is expected')
        return records
    if ending in ('.jsonl', '.ndjson'):
        return [record for _, record in parse_json_lines(decode_text(read_bytes(path, backend_args), path), path)]
    raise ValueError(f'{path}: RefCOCO-M is read from .parquet, .json or .jsonl files')
