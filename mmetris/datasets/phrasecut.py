"""PhraseCut: phrases for regions of Visual Genome's images (Wu et al., "PhraseCut: Language-based Image Segmentation in
the Wild", 2020)."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any

from mmengine.fileio import join_path
from mmengine.logging import print_log

from ..registry import DATASETS
from .listed import ListedRefDataset
from .refer import image_key, load_json
from .segmentation import segmentation_to_rle, whole_number

# Phrases of each split, as the README of github.com/ChenyunWu/PhraseCutDataset counts them; 'val' is without 'miniv'.
PUBLISHED_PHRASES = dict(train=310816, val=20316, test=14354, miniv=821)


@DATASETS.register_module()
class PhraseCutDataset(ListedRefDataset):
    """Referring segmentation from PhraseCut's own files, ``refer_train.json`` and Visual Genome's images.

    Each phrase is a sample; its mask is the union of ``Polygons``, a list of polygons of points [x, y] for each
    instance. The files hold no sizes: the images' headers do.

    Half of the images are COCO's too. Their numbers are in ``info_file``; with it,
    :class:`~mmetris.datasets.mixed.MixedRefDataset` leaves out what RefCOCO tests on, and the reverse.

    Args:
        data_root: Folder that the other paths are relative to. Defaults to '', PhraseCut's calls it
            ``VGPhraseCut_v0``.
        ann_file: The phrases, with ``{split}`` for the name of the split. Defaults to ``'refer_{split}.json'``.
        data_prefix: Folder of the images. Defaults to ``dict(img_path='images/')``; an image is called by its
            number in Visual Genome.
        split: 'train', 'val', 'test' or 'miniv', 100 images to try with. Defaults to 'train'.
        info_file: PhraseCut's list of images, of which ``coco_id`` is read, and only to recognise images of several
            data sets. May be missing. Defaults to ``'image_data_split.json'``.
        **kwargs: The other arguments of :class:`RefCocoDataset` but ``split_file`` and ``text_field``.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If an item is not as it should be; the message names file and item.
    """

    def __init__(
        self,
        data_root: str = '',
        ann_file: str = 'refer_{split}.json',
        data_prefix: dict = dict(img_path='images/'),  # noqa: B006  BaseDataset copies it
        split: str = 'train',
        info_file: str = 'image_data_split.json',
        **kwargs: Any,
    ) -> None:
        self.info_file = join_path(data_root, info_file) if data_root else info_file
        self._coco_keys: dict[int, str] | None = None
        super().__init__(data_root, ann_file, data_prefix, split, **kwargs)

    def split_names(self) -> list[str]:
        """Of 'train', 'val', 'test' and 'miniv' those whose file is there."""
        return [name for name in PUBLISHED_PHRASES if os.path.isfile(self._file_of(name))]

    def published_differences(self) -> list[str]:
        """How many phrases each split has, where the published number is another."""
        counts = {name: len(self._tasks(name)) for name in self.split_names()}
        return [
            f'{name} has {count} phrases, published are {PUBLISHED_PHRASES[name]}'
            for name, count in counts.items()
            if count != PUBLISHED_PHRASES[name]
        ]

    def _tasks(self, split: str) -> list[dict]:
        path = self._file_of(split)
        tasks = load_json(path, self.backend_args, f"PhraseCut's phrases of split {split!r}")
        if not isinstance(tasks, list) or not tasks:
            raise ValueError(f'{path} holds a {type(tasks).__name__}, but a list of phrases is expected')
        return tasks

    def _objects_of_split(self, split: str) -> Iterator[dict]:
        path = self._file_of(split)
        for index, task in enumerate(self._tasks(split)):
            where = f'{path}: item {index}'
            if not isinstance(task, dict):
                raise ValueError(f'{where} is a {type(task).__name__}, but a dict is expected')
            if missing := [key for key in ('image_id', 'phrase', 'Polygons') if key not in task]:
                raise ValueError(f'{where} has no {", ".join(missing)}')
            where += f' (task_id {task.get("task_id")})'
            image_id = whole_number(task['image_id'])
            if image_id is None:
                raise ValueError(f'{where} has an image_id that is no whole number: {task["image_id"]!r}')
            phrase = task['phrase']
            if not isinstance(phrase, str) or not phrase.strip():
                raise ValueError(f'{where} has an empty phrase ({phrase!r})')
            img_path = self._path_of(image_id)
            height, width = self._size_of(img_path, f'{where}: image')
            try:
                rle = segmentation_to_rle(_flat_polygons(task['Polygons']), height, width)
            except ValueError as error:
                raise ValueError(f'{where}: Polygons cannot be read: {error}') from error
            yield dict(
                img_path=img_path,
                img_id=image_id,
                height=height,
                width=width,
                ref_id=index,
                ann_id=task.get('ann_ids', index),
                category_id=None,
                segmentation=rle,
                expressions=[phrase],
                sent_ids=[index],
            )

    def _path_of(self, image_id: int) -> str:
        return join_path(self.data_prefix['img_path'], f'{image_id}.jpg')

    def _images_of_split(self, split: str) -> Iterable[str]:
        path = self._file_of(split)
        numbers = []
        for index, task in enumerate(self._tasks(split)):
            number = whole_number(task.get('image_id')) if isinstance(task, dict) else None
            if number is None:
                raise ValueError(f'{path}: item {index} has no number of an image')
            numbers.append(number)
        return map(self._key_of, numbers)

    def key_of_image(self, record: dict) -> str:
        """COCO's number where the image has one, else its path.

        Args:
            record: A record of the data set.
        """
        return self._key_of(record['img_id'])

    def _key_of(self, image_id: int) -> str:
        if self._coco_keys is None:
            self._coco_keys = self._read_coco_keys()
        return self._coco_keys.get(image_id, image_key(self._path_of(image_id)))

    def _read_coco_keys(self) -> dict[int, str]:
        if not os.path.isfile(self.info_file):
            print_log(
                f"{self.info_file} is not there: PhraseCut's images are not recognised as those of COCO, so that a "
                'mixture may train on what RefCOCO tests on',
                logger='current',
                level=logging.WARNING,
            )
            return {}
        images = load_json(self.info_file, self.backend_args)
        try:
            numbers = [(whole_number(image['image_id']), whole_number(image['coco_id'])) for image in images]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{self.info_file} is no list of images with 'image_id' and 'coco_id' ({type(error).__name__}: {error})"
            ) from error
        return {vg: f'COCO {coco}' for vg, coco in numbers if vg is not None and coco is not None}


def _flat_polygons(instances: Any) -> list[list[float]]:
    """Polygons of all instances, each as [x0, y0, x1, y1, ...].

    Raises:
        ValueError: If they are no lists of lists of points.
    """
    flat = []
    for polygons in _listed(instances, 'instances'):
        for polygon in _listed(polygons, 'polygons'):
            points = _listed(polygon, 'points')
            if any(not isinstance(point, (list, tuple)) or len(point) != 2 for point in points):
                raise ValueError('a polygon is a list of points [x, y]')
            flat.append([coordinate for point in points for coordinate in point])
    return flat


def _listed(value: Any, what: str) -> list:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f'a {type(value).__name__} stands where a list of {what} is expected')
    return list(value)
