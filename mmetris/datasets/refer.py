"""Read the files that REFER publishes for RefCOCO, RefCOCO+ and RefCOCOg, as they are.

``<root>/<name>/instances.json`` has COCO's layout; ``<root>/<name>/refs(<split_by>).p`` is a pickled list of
objects that sentences refer to. A pickle can run any code, so this one is read by an unpickler that knows
plain data only.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os.path
import pickle
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import mmengine.fileio as fileio

from ..utils.files import read_bytes
from .segmentation import whole_number

_fast_json: Callable[[bytes], Any] | None = None
with contextlib.suppress(ImportError):  # Optional: the same result three times faster.
    import orjson

    _fast_json = orjson.loads


def _load_json(data: bytes) -> Any:
    """JSON as Python's own reader takes it (byte order marks, UTF-16, NaN), whether or not a faster one is there."""
    if _fast_json is not None:
        with contextlib.suppress(ValueError):
            return _fast_json(data)
    return json.loads(data)


# In gRefCOCO's ann_id: nothing in the image is meant.
NO_TARGET = -1
REFER_URL = 'https://github.com/lichengunc/refer'
IN_REFERS_LAYOUT = f"in REFER's layout (see {REFER_URL})"  # Others publish in it, too.

# Objects and sentences of each split as published: (name, split_by) -> split -> (objects, sentences). None
# where no count is at hand; two numbers where sources differ.
PUBLISHED_COUNTS: dict[tuple[str, str], dict[str, tuple[int, int | tuple[int, int] | None]]] = {
    ('refcoco', 'unc'): dict(train=(42404, 120624), val=(3811, 10834), testA=(1975, 5657), testB=(1810, 5095)),
    ('refcoco+', 'unc'): dict(
        train=(42278, (120191, 120624)), val=(3805, 10758), testA=(1975, 5726), testB=(1798, 4889)
    ),
    ('refcocog', 'umd'): dict(train=(42226, None), val=(2573, None), test=(5023, None)),
    ('refcocog', 'google'): dict(train=(44822, None), val=(5000, None)),
}


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the garbage collector.

    For the time in which millions of small objects are made, none of which is garbage; it halves the time to load.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _PlainDataUnpickler(pickle.Unpickler):
    """Unpickler that builds what needs no import (dict, list, tuple, set, str, bytes, numbers, bool, None) only."""

    def __init__(self, data: bytes, path: str, encoding: str) -> None:
        super().__init__(io.BytesIO(data), encoding=encoding)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        # Every way to reach code (GLOBAL, INST, REDUCE, extension codes ...) asks here for its first object.
        raise pickle.UnpicklingError(
            f'{self._path}: refused, because it names {module}.{name}. A REFER split file '
            'holds plain data only (dicts, lists, strings, numbers); nothing was executed'
        )

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError(f'{self._path}: refused, because it refers to an object outside the file')


def load_plain_pickle(path: str, backend_args: dict | None = None) -> Any:
    """Load a pickle of plain data without executing anything that it may carry.

    Strings of Python 2 are decoded as UTF-8, or as Latin-1 if they are not UTF-8.

    Args:
        path: A file, or any address that MMEngine's file backends read.
        backend_args: Arguments of the file backend.

    Raises:
        pickle.UnpicklingError: If it names any class or function; the message has file and name.
        ValueError: If it is no complete pickle.
        FileNotFoundError: If it is missing.
    """
    data = _read(path, backend_args, f'a pickled list of refs, {IN_REFERS_LAYOUT}')
    try:
        with collector_paused():
            try:
                return _PlainDataUnpickler(data, path, encoding='utf-8').load()
            except UnicodeDecodeError:
                return _PlainDataUnpickler(data, path, encoding='latin-1').load()
    except pickle.UnpicklingError as error:
        if path in str(error):
            raise
        raise ValueError(f'{path} is no complete pickle: {error}') from error
    except Exception as error:  # a damaged stream fails in many ways: EOFError, IndexError, MemoryError, ...
        raise ValueError(f'{path} is no complete pickle: {type(error).__name__}: {error}') from error


def _read(path: str, backend_args: dict | None, content: str) -> bytes:
    if not fileio.exists(path, backend_args=backend_args):
        raise FileNotFoundError(
            f'{path} does not exist. Expected there: {content}; docs/data.md says where to put which file'
        )
    return read_bytes(path, backend_args)


def load_json(path: str, backend_args: dict | None = None, content: str = 'JSON') -> Any:
    """Read a JSON file, the same with and without the faster reader.

    Args:
        path: A file, or any address that MMEngine's file backends read.
        backend_args: Arguments of the file backend.
        content: What is expected there, in words, for the message where it is missing.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is no JSON.
    """
    data = _read(path, backend_args, content)
    try:
        with collector_paused():
            return _load_json(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is no valid JSON: {error}') from error


def parse_json_lines(text: str, path: str) -> Iterator[tuple[int, Any]]:
    """JSON Lines: the value in each line that is not blank, with the line's number, 1-based.

    Args:
        text: Content of the file.
        path: What the file is called, for the message.

    Raises:
        ValueError: If a line is no JSON; the message names it.
    """
    for number, line in enumerate(text.split('\n'), 1):  # Other ends of lines may stand inside of a sentence.
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f'{path}, line {number}: no valid JSON: {error}') from error
            yield number, value


class Instances(NamedTuple):
    """What is needed of an ``instances.json``.

    Attributes:
        images: image id -> COCO's image entry (``file_name``, ``height``, ``width``).
        annotations: annotation id -> COCO's annotation (``segmentation``, ``image_id``, ``category_id``).
    """

    images: dict[int, dict]
    annotations: dict[int, dict]


def load_instances(path: str, backend_args: dict | None = None) -> Instances:
    """Read COCO's annotation file and index it.

    Args:
        path: The ``instances.json``.
        backend_args: Arguments of MMEngine's file backend.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is no JSON in COCO's layout.
    """
    content = load_json(path, backend_args, f'COCO annotations of the images (instances.json), {IN_REFERS_LAYOUT}')
    try:
        for items, keys in (('images', ('id', 'height', 'width')), ('annotations', ('id', 'image_id'))):
            for item in content[items]:
                _make_whole(item, keys)
        instances = Instances(
            {image['id']: image for image in content['images']},
            {annotation['id']: annotation for annotation in content['annotations']},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not in COCO's layout: it needs lists 'images' and 'annotations' whose items have "
            f"an 'id' ({type(error).__name__}: {error})"
        ) from error
    for name, items in instances._asdict().items():
        if len(items) < len(content[name]):
            repeated = Counter(item['id'] for item in content[name]).most_common(1)[0][0]
            raise ValueError(f'{path} has several {name} with id {repeated}')
    return instances


def _target_ids(ref: dict, where: str) -> list[int | str]:
    """The annotations that an item of gRefCOCO means, each once; none where it means nothing in the image.

    Raises:
        ValueError: If they are no ids, -1 stands beside others, or ``no_target`` says otherwise.
    """
    ids = ref['ann_id'] if isinstance(ref['ann_id'], (list, tuple)) else [ref['ann_id']]
    whole = [value if isinstance(value, str) else whole_number(value) for value in ids]
    if any(value is None for value in whole):
        raise ValueError(f'{where} has an ann_id that is no whole number: {ref["ann_id"]}')
    targets = list(dict.fromkeys(value for value in whole if value is not None and value != NO_TARGET))
    if targets and NO_TARGET in whole:
        raise ValueError(f'{where} has {NO_TARGET}, which means no target, beside other ids in ann_id: {ref["ann_id"]}')
    if ref.get('no_target') is not None and bool(ref['no_target']) != (not targets):
        raise ValueError(f'{where} has no_target={ref["no_target"]!r}, but ann_id {ref["ann_id"]}')
    return targets


def _make_whole(item: dict, keys: Sequence[str]) -> None:
    """Turn numbers such as 1.0, which pandas writes in columns with gaps, into whole ones, in place."""
    for key in keys:
        if isinstance(value := item.get(key), float) and (number := whole_number(value)) is not None:
            item[key] = number


def load_refs(path: str, backend_args: dict | None = None, several: bool = False) -> list[dict]:
    """Read a split file: the referred objects of all splits, in the file's order.

    Args:
        path: The ``refs(<split_by>).p``, or JSON with the same content (``.json``).
        backend_args: Arguments of MMEngine's file backend.
        several: Whether an item may mean no annotation or several, as in gRefCOCO; each then has ``ann_ids``, a list.
            Defaults to False.

    Returns:
        Items with ``ref_id``, ``ann_id``, ``image_id``, ``split`` and ``sentences`` (each with ``sent_id``,
        ``sent`` and ``raw``).

    Raises:
        FileNotFoundError, pickle.UnpicklingError: As :func:`load_plain_pickle`.
        ValueError: If it is no list of such items; the message names the first bad one.
    """
    if path.endswith('.json'):
        refs = load_json(path, backend_args, f'a list of refs, {IN_REFERS_LAYOUT}')
    else:
        refs = load_plain_pickle(path, backend_args)
    if not isinstance(refs, list):
        raise ValueError(f'{path} holds a {type(refs).__name__}, but a list of refs is expected')
    for index, ref in enumerate(refs):
        if not isinstance(ref, dict):
            raise ValueError(f'{path}: item {index} is a {type(ref).__name__}, but a dict is expected')
        if several:
            ref.setdefault('ref_id', index)
        missing = [key for key in ('ref_id', 'ann_id', 'image_id', 'split', 'sentences') if key not in ref]
        if missing:
            raise ValueError(f'{path}: item {index} (ref_id {ref.get("ref_id")}) has no {", ".join(missing)}')
        _make_whole(ref, ('ref_id', 'ann_id', 'image_id'))
        where = f'{path}: item {index} (ref_id {ref["ref_id"]})'
        if several:
            ref['ann_ids'] = _target_ids(ref, where)
        elif isinstance(ref['ann_id'], list):
            raise ValueError(
                f'{where} has a list as ann_id, as gRefCOCO has, which GRefCocoDataset reads; here each item is one '
                'object, with the id of its annotation'
            )
        if any(
            not isinstance(ref[key], (int, str)) for key in ('ref_id', 'image_id', *(() if several else ('ann_id',)))
        ):
            raise ValueError(
                f'{path}: item {index} has an id that is no whole number: ref_id {ref["ref_id"]}, ann_id '
                f'{ref["ann_id"]}, image_id {ref["image_id"]}'
            )
        if not isinstance(ref['split'], str) or not isinstance(ref['sentences'], list):
            raise ValueError(
                f'{path}: item {index} (ref_id {ref["ref_id"]}) needs a string as split and a list as sentences'
            )
    return refs


def select_split(refs: Sequence[dict], split: str, path: str) -> list[dict]:
    """The refs of one split.

    Args:
        refs: Items of :func:`load_refs`.
        split: E.g. 'train', 'val', 'testA', 'testB'; the names are those in the file, see :func:`parts_of_split`.
        path: The file they came from, for the message.

    Raises:
        ValueError: If there is no such split.
    """
    selected = [ref for ref in refs if split in parts_of_split(ref['split'])]
    if not selected:
        counts = Counter(ref['split'] for ref in refs)
        present = ', '.join(f'{name} ({count} objects)' for name, count in counts.items())
        raise ValueError(f'{path} has no split {split!r}. Present: {present or "none"}')
    return selected


def parts_of_split(name: str) -> tuple[str, ...]:
    """The splits that an item belongs to: RefCLEF's 'testAB' is in 'testA' and in 'testB'.

    Args:
        name: An item's split.
    """
    several = re.fullmatch('test([A-Z]{2,})', name)
    return (name, *(f'test{letter}' for letter in several[1])) if several else (name,)


def is_held_out(split: str) -> bool:
    """Whether a split is there to test on, by its name.

    Args:
        split: Its name.
    """
    return split.startswith(('val', 'test'))


def held_out_splits(refs: Sequence[dict]) -> list[str]:
    """Names of the splits to test on, in order of appearance: those that start with 'val' or 'test'."""
    return [name for name in dict.fromkeys(ref['split'] for ref in refs) if is_held_out(name)]


def count_split(refs: Sequence[dict]) -> dict[str, tuple[int, int, int]]:
    """Size of each split: name -> (objects, sentences, images), in order of appearance."""
    counts = {}
    for name in dict.fromkeys(ref['split'] for ref in refs):
        selected = [ref for ref in refs if ref['split'] == name]
        num_sentences = sum(len(ref['sentences']) for ref in selected)
        counts[name] = (len(selected), num_sentences, len({ref['image_id'] for ref in selected}))
    return counts


def published_name(path: str) -> tuple[str, str] | None:
    """Which published split file this is by its path: ``refcoco+/refs(unc).p`` -> ('refcoco+', 'unc'); None if none."""
    folder, file_name = os.path.split(path)
    split_by = re.fullmatch(r'refs\((\w+)\)\.p', file_name)
    key = (os.path.basename(folder), split_by.group(1)) if split_by else None
    return key if key in PUBLISHED_COUNTS else None


def compare_with_published(name: str, split_by: str, refs: Sequence[dict]) -> list[str]:
    """Differences between a loaded split file and the published counts.

    Args:
        name: 'refcoco', 'refcoco+' or 'refcocog'.
        split_by: 'unc', 'umd' or 'google'.
        refs: Items of :func:`load_refs`.

    Returns:
        One sentence for each difference; empty if there is none.

    Raises:
        KeyError: If no counts are known for this name and split.
    """
    if (name, split_by) not in PUBLISHED_COUNTS:
        raise KeyError(
            f'No published counts for {name} ({split_by}), only for '
            + ', '.join(f'{known} ({by})' for known, by in PUBLISHED_COUNTS)
        )
    counts = count_split(refs)
    differences = []
    for split, (objects, sentences) in PUBLISHED_COUNTS[name, split_by].items():
        found_objects, found_sentences, _ = counts.get(split, (0, 0, 0))
        if found_objects != objects:
            differences.append(f'{split} has {found_objects} objects, published are {objects}')
        accepted = sentences if isinstance(sentences, tuple) else (sentences,)
        if sentences is not None and found_sentences not in accepted:
            published = ' or '.join(map(str, accepted))
            differences.append(f'{split} has {found_sentences} sentences, published are {published}')
    return differences


def image_key(img_path: str) -> str:
    """Name under which an image is recognised in several data sets.

    COCO's images go by their number, whatever folder or release (``COCO_train2014_000000123456.jpg``,
    ``000000123456.jpg``) they come from; other images by their path.
    """
    stem = os.path.splitext(os.path.basename(img_path))[0]
    number = stem.rpartition('_')[2]
    if len(number) == 12 and number.isdigit() and (stem == number or stem.startswith('COCO_')):
        return f'COCO {int(number)}'
    return img_path
