"""RefCOCO, RefCOCO+, RefCOCOg and every data set of their layout, one class for all."""

from __future__ import annotations

import itertools
import logging
import os
from typing import Any

import numpy as np
import torch
from mmengine import dist, fileio
from mmengine.dataset import BaseDataset, Compose
from mmengine.fileio import join_path
from mmengine.logging import print_log
from mmengine.utils import is_abs
from pycocotools import mask as coco_mask

from ..registry import DATASETS
from ..utils.file_names import FreeNames, sample_name
from ..utils.tokenizer import count_tokens
from .boxes import box_of_mask, boxes_of
from .refer import (
    IN_REFERS_LAYOUT,
    Instances,
    collector_paused,
    compare_with_published,
    held_out_splits,
    image_key,
    load_instances,
    load_refs,
    parts_of_split,
    published_name,
    select_split,
)
from .segmentation import segmentation_to_rle
from .transforms.expression import TokenizeExpression

TEXT_MODES = ('random', 'original', 'select_first', 'concat')

# What has been reported in this process, so that a split used for validation and test is reported once.
_reported: set[tuple] = set()
# Of fewer objects in total, a file in the place of RefCOCO's is somebody's small data set of the same layout.
_MIN_PUBLISHED_OBJECTS = 20000


class _SharedEpoch:
    """An epoch number in shared memory, so that workers see it change; -1 until it is first set."""

    def __init__(self) -> None:
        self._value = torch.full((1,), -1, dtype=torch.long).share_memory_()

    def __deepcopy__(self, memo: dict) -> _SharedEpoch:
        other = _SharedEpoch()
        other.value = self.value
        return other

    @property
    def value(self) -> int:
        return int(self._value)

    @value.setter
    def value(self, epoch: int) -> None:
        self._value.fill_(epoch)


@DATASETS.register_module()
class RefCocoDataset(BaseDataset):
    """Referring segmentation from the files that REFER publishes, without any conversion.

    The same class reads the four published data sets; ``instances.json`` and images are those of COCO
    train2014:

    ================== ============================= ===========================
    data set           ann_file                      split_file
    ================== ============================= ===========================
    RefCOCO            ``refcoco/instances.json``    ``refcoco/refs(unc).p``
    RefCOCO+           ``refcoco+/instances.json``   ``refcoco+/refs(unc).p``
    RefCOCOg (UMD)     ``refcocog/instances.json``   ``refcocog/refs(umd).p``
    RefCOCOg (Google)  ``refcocog/instances.json``   ``refcocog/refs(google).p``
    ================== ============================= ===========================

    RefCOCOg's Google split shares images between train and val.

    A record has ``img_path``, ``img_id``, ``height``, ``width``, ``ref_id``, ``ann_id``, ``category_id``,
    ``segmentation`` (compressed RLE of the whole mask, drawn once) and the object's ``expressions`` with their
    ``sent_ids``; the pipeline also gets ``expression`` and ``sent_id``, the sentence chosen. The order is that
    of the file. All is checked when the annotations are read: files and images exist, each ref points to an
    annotation and an image, no sentence is empty. Objects whose mask covers no pixel are left out of training
    and kept for evaluation (where such a sentence cannot score), with one warning. If the pipeline tokenizes,
    sentences that are too long are counted and reported once.

    Records are kept as one array of bytes, which worker processes read in place. Measured with
    ``tools/analysis_tools/annotation_cost.py`` on made-up files of RefCOCO's size (200,000 annotations in 95 MB,
    50,000 refs in 27 MB): 42,404 training objects are 31 MB and take 4.0 s of one core to read, 3.7 s where the
    package orjson is installed, at a peak of 0.85 and 1.04 GB. Drawing the masks is 0.8 s of that.

    Args:
        data_root: Folder that the other paths are relative to.
        ann_file: COCO annotations of the images.
        split_file: REFER's pickled list of objects and sentences. Plain data only; a pickle that names any
            code is refused.
        data_prefix: Folder of the images, ``dict(img_path=...)``. File names come from ``ann_file``.
        split: A split in ``split_file``: 'train', 'val', 'testA', 'testB' or 'test'.
        text_mode: Which sentences make a sample. 'random': one sample for each object, its sentence drawn
            anew at each epoch (see :meth:`set_epoch`); 'original': a sample for each sentence;
            'select_first': each object with its first sentence; 'concat': each object with all its sentences
            in a row. Defaults to 'original' in test mode, as evaluation uses every sentence, and to 'random'
            else, as ETRIS trains.
        text_field: 'sent', the cleaned and lower-cased text, or 'raw'. Defaults to 'sent'.
        with_boxes: Whether a record also has ``boxes``, (K, 4) float32 of the object or, in gRefCOCO, of each object:
            left, top, right, bottom in pixels, cut to the image. They are the annotations' ``bbox``, or those around
            their masks where they have none. Defaults to False.
        seed: Seed of the drawn sentences, not negative. Defaults to 0.
        backend_args: Arguments of MMEngine's file backend for ``ann_file`` and ``split_file``.
        test_mode: Whether the samples are to be evaluated on. Defaults to False.
        **kwargs: The other arguments of :class:`mmengine.dataset.BaseDataset`.

    Raises:
        FileNotFoundError: If the root, a file, the image folder or an image is missing.
        ValueError: If a file or one of its items is not as it should be, the split is unknown, or an argument
            has no such value. The message names file and item.
        pickle.UnpicklingError: If ``split_file`` holds anything but plain data.
    """

    METAINFO = dict(classes=('background', 'referred object'), palette=[[0, 0, 0], [220, 20, 60]])

    def __init__(
        self,
        data_root: str = '',
        ann_file: str = 'refcoco/instances.json',
        split_file: str = 'refcoco/refs(unc).p',
        data_prefix: dict = dict(img_path='train2014/'),  # noqa: B006  BaseDataset copies it
        split: str = 'train',
        text_mode: str | None = None,
        text_field: str = 'sent',
        with_boxes: bool = False,
        seed: int = 0,
        backend_args: dict | None = None,
        test_mode: bool = False,
        **kwargs: Any,
    ) -> None:
        if text_mode is None:
            text_mode = 'original' if test_mode else 'random'
        if text_mode not in TEXT_MODES:
            raise ValueError(f'text_mode must be one of {", ".join(TEXT_MODES)}, but is {text_mode!r}')
        if text_field not in ('sent', 'raw'):
            raise ValueError(f"text_field must be 'sent' or 'raw', but is {text_field!r}")
        if seed < 0:
            raise ValueError(f'seed must not be negative, but is {seed}')
        # As MMEngine joins `ann_file`.
        self.split_file = join_path(data_root, split_file) if data_root and not is_abs(split_file) else split_file
        self.split = split
        self.text_mode = text_mode
        self.text_field = text_field
        self.with_boxes = with_boxes
        self.seed = seed
        self.backend_args = backend_args
        # Set by MixedRefDataset so that sample_idx is unique in the mixture.
        self.sample_idx_offset = 0
        self._epoch = _SharedEpoch()
        self._held_out_images: frozenset[str] | None = None  # until the annotations are read
        super().__init__(data_root=data_root, ann_file=ann_file, data_prefix=data_prefix, test_mode=test_mode, **kwargs)

    # Reading

    def load_data_list(self) -> list[dict]:
        """Read both files, check them, and make the records of the split in the order of the file."""
        self._check_root()
        with collector_paused():
            refs = self._load_refs()
            self._report_other_counts(refs)
            selected = select_split(refs, self.split, self.split_file)
            instances = load_instances(self.ann_file, self.backend_args)
            objects = [self._parse_object(ref, instances) for ref in selected]
            self._draw_masks(objects)
            self._held_out_images = self._find_held_out_images(refs, instances)
        self._check_images(objects)
        return self._samples_of(objects)

    def _samples_of(self, objects: list[dict]) -> list[dict]:
        """The records that ``text_mode`` makes of objects with drawn masks."""
        if self.with_boxes:
            for record in objects:
                if 'boxes' not in record:  # A list that has masks only: one box around all that a sentence means.
                    box = box_of_mask(record['segmentation'])
                    record['boxes'] = np.array([] if box is None else [box], dtype=np.float32).reshape(-1, 4)
        objects = self._without_empty_masks(objects)
        records = list(itertools.chain.from_iterable(map(self._to_records, objects)))
        self._report_cut_sentences(records)
        if self.test_mode:
            _name_sentences(records)
        return records

    def _load_refs(self) -> list[dict]:
        return load_refs(self.split_file, self.backend_args)

    def _annotation_ids(self, ref: dict) -> list:
        """Ids of the annotations that a ref means."""
        return [ref['ann_id']]

    def _image_path(self, image: dict) -> str:
        """Where an image of ``ann_file`` is."""
        return join_path(self.data_prefix['img_path'], image['file_name'])

    def _check_root(self) -> None:
        if self.data_root and not fileio.exists(self.data_root, backend_args=self.backend_args):
            raise FileNotFoundError(
                f'data_root {self.data_root} does not exist. Expected: {self.ann_file} and {self.split_file}, '
                f'{IN_REFERS_LAYOUT}, and the images under {self.data_prefix["img_path"]}'
            )

    def split_names(self) -> list[str]:
        """Names of the splits in the files, in order of appearance; the masks are not read."""
        written = dict.fromkeys(ref['split'] for ref in self._load_refs())
        return list(dict.fromkeys(part for name in written for part in parts_of_split(name)[1:] or [name]))

    def published_differences(self) -> list[str] | None:
        """How the files differ from the published counts of objects and sentences, a sentence for each difference.

        None where no counts are known, or where the files are too small to be the published ones.
        """
        name, refs = published_name(self.split_file), self._load_refs()
        return None if name is None or len(refs) < _MIN_PUBLISHED_OBJECTS else compare_with_published(*name, refs)

    def _report_other_counts(self, refs: list[dict]) -> None:
        name = published_name(self.split_file)
        report = ('counts', self.split_file)
        if name is None or len(refs) < _MIN_PUBLISHED_OBJECTS or report in _reported:
            return
        _reported.add(report)
        differences = compare_with_published(*name, refs)
        if differences:
            print_log(
                f'{self.split_file} differs from what was published as {name[0]} ({name[1]}): {"; ".join(differences)}',
                logger='current',
                level=logging.WARNING,
            )

    def _parse_object(self, ref: dict, instances: Instances) -> dict:
        """A referred object with all its sentences."""
        where = f'{self.split_file}: ref_id {ref["ref_id"]}'
        ann_ids = self._annotation_ids(ref)
        for key, ids, known in (
            ('ann_id', ann_ids, instances.annotations),
            ('image_id', [ref['image_id']], instances.images),
        ):
            if unknown := [value for value in ids if value not in known]:
                raise ValueError(f'{where} refers to {key} {unknown[0]}, which is not in {self.ann_file}')
        annotations, image = [instances.annotations[ann_id] for ann_id in ann_ids], instances.images[ref['image_id']]
        try:
            for ann_id, annotation in zip(ann_ids, annotations):
                if annotation['image_id'] != ref['image_id']:
                    raise ValueError(
                        f'{where} is on image_id {ref["image_id"]}, but its ann_id {ann_id} is on '
                        f'image_id {annotation["image_id"]} in {self.ann_file}'
                    )
            if not isinstance(image['file_name'], str) or not image['file_name'].strip():
                raise ValueError(f'{self.ann_file}: file_name {image["file_name"]!r} of image_id {image["id"]} is none')
            categories = [annotation.get('category_id') for annotation in annotations]
            record = dict(
                img_path=self._image_path(image),
                img_id=ref['image_id'],
                height=image['height'],
                width=image['width'],
                ref_id=ref['ref_id'],
                ann_id=ref['ann_id'],
                category_id=categories[0] if len(categories) == 1 else categories,
                # One for each annotation; drawn later, and then one for all.
                segmentation=[annotation['segmentation'] for annotation in annotations],
            )
            if self.with_boxes:
                record['boxes'] = [annotation.get('bbox') for annotation in annotations]
        except KeyError as error:
            raise ValueError(
                f'{self.ann_file}: ann_id {ref["ann_id"]} or its image_id {ref["image_id"]} has no {error}'
            ) from error
        for side in ('height', 'width'):
            if not isinstance(record[side], int) or record[side] < 1:
                raise ValueError(
                    f'{self.ann_file}: {side} {record[side]!r} of image_id {ref["image_id"]} is no number of pixels'
                )
        if not ref['sentences']:
            raise ValueError(f'{where} has no sentences')
        for sentence in ref['sentences']:
            if not isinstance(sentence, dict):
                raise ValueError(f'{where} has a sentence that is no dict: {sentence!r}')
            text = sentence.get(self.text_field)
            if not isinstance(text, str) or not text.strip():
                raise ValueError(
                    f'{where}, sent_id {sentence.get("sent_id")} has an empty sentence ({self.text_field!r}: {text!r})'
                )
        record['expressions'] = [sentence[self.text_field] for sentence in ref['sentences']]
        record['sent_ids'] = [sentence.get('sent_id') for sentence in ref['sentences']]
        return record

    def _check_images(self, objects: list[dict]) -> None:
        """Raise if a folder or an image is missing; lists each folder once, which is cheaper than asking per file."""
        if '://' in self.data_prefix['img_path']:
            return
        present: dict[str, set[str]] = {}
        missing: dict[str, dict] = {}
        for record in objects:
            folder, name = os.path.split(record['img_path'])
            if folder not in present:
                if folder and not os.path.isdir(folder):
                    raise FileNotFoundError(
                        f'Image folder {folder} does not exist. Expected there: {name} and the other images named in '
                        f'{self.ann_file} (for RefCOCO, RefCOCO+ and RefCOCOg the train2014 images of COCO)'
                    )
                present[folder] = set(os.listdir(folder or '.'))
            if name not in present[folder]:
                missing.setdefault(record['img_path'], record)
        if missing:
            path, record = next(iter(missing.items()))
            raise FileNotFoundError(
                f'{len(missing)} images of split {self.split!r} are missing, the first is {path} (ref_id '
                f'{record["ref_id"]} in {self.split_file}, image_id {record["img_id"]} in {self.ann_file})'
            )

    def _draw_masks(self, objects: list[dict]) -> None:
        """Put each object's mask as compressed RLE in the place of its polygons: drawn once, not in every epoch."""
        for record in objects:
            size = record['height'], record['width']
            try:
                drawn = [segmentation_to_rle(segmentation, *size) for segmentation in record['segmentation']]
                record['segmentation'] = drawn[0] if len(drawn) == 1 else segmentation_to_rle(drawn, *size)
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(
                    f'{self.ann_file}: the mask of ann_id {record["ann_id"]} cannot be read: {error}'
                ) from error
            if self.with_boxes:
                try:
                    record['boxes'] = boxes_of(record['boxes'], drawn, *size)
                except ValueError as error:
                    raise ValueError(f'{self.ann_file}: ann_id {record["ann_id"]}: {error}') from error

    def _without_empty_masks(self, objects: list[dict]) -> list[dict]:
        empty = [
            record
            for record in objects
            if coco_mask.area(record['segmentation']) == 0 and not record.get('no_target', False)
        ]
        if not empty:
            return objects
        print_log(
            f'{len(empty)} of {len(objects)} objects in split {self.split!r} of {self.split_file} have a mask without '
            f'any pixel in {self.ann_file}; they are {"kept, but cannot score" if self.test_mode else "left out"}. '
            f'ref_id: {", ".join(str(record["ref_id"]) for record in empty[:10])}{" ..." if len(empty) > 10 else ""}',
            logger='current',
            level=logging.WARNING,
        )
        if self.test_mode:
            return objects
        if len(empty) == len(objects):
            raise ValueError(f'No object is left in split {self.split!r} of {self.split_file}')
        empty_ids = {id(record) for record in empty}
        return [record for record in objects if id(record) not in empty_ids]

    def _to_records(self, record: dict) -> list[dict]:
        """The samples that ``text_mode`` makes of one object."""
        expressions, sent_ids = record['expressions'], record['sent_ids']
        if self.text_mode == 'original':
            return [
                dict(record, expressions=[text], sent_ids=[sent_id]) for text, sent_id in zip(expressions, sent_ids)
            ]
        if self.text_mode == 'select_first':
            return [dict(record, expressions=expressions[:1], sent_ids=sent_ids[:1])]
        if self.text_mode == 'concat':
            return [dict(record, expressions=[' '.join(expressions)], sent_ids=sent_ids[:1])]
        return [record]

    def _report_cut_sentences(self, records: list[dict]) -> None:
        context_length = context_length_of(self.pipeline)
        report = ('cuts', self.split_file, self.split, self.text_field, self.text_mode == 'concat', context_length)
        if context_length is None or report in _reported or not dist.is_main_process():
            return
        _reported.add(report)
        texts = [text for record in records for text in record['expressions']]
        # A token covers at least one character of ASCII text, so most sentences need no count.
        maybe_long = [text for text in texts if not text.isascii() or len(text) + 2 > context_length]
        lengths = [count_tokens(text) for text in maybe_long]
        num_cut = sum(length > context_length for length in lengths)
        if num_cut:
            print_log(
                f'{num_cut} of {len(texts)} sentences in split {self.split!r} of {self.split_file} are longer than '
                f'{context_length} tokens and are cut; the longest has {max(lengths)}',
                logger='current',
                level=logging.WARNING,
            )

    # Using

    def get_data_info(self, idx: int) -> dict:
        """The record of one sample, with all its expressions and what MMSeg's transforms expect."""
        record = super().get_data_info(idx)
        record['sample_idx'] += self.sample_idx_offset
        record.update(seg_fields=[], reduce_zero_label=False)
        return record

    def prepare_data(self, idx: int) -> Any:
        """Choose the sentence of a sample and run the pipeline."""
        record = self.get_data_info(idx)
        epoch = getattr(idx, 'epoch', self._epoch.value)
        chosen = self._draw(epoch, int(record['sample_idx']), len(record['expressions']))
        record['expression'] = record['expressions'][chosen]
        record['sent_id'] = record['sent_ids'][chosen]
        if 'sample_names' in record:
            record['sample_name'] = record['sample_names'][chosen]
        return self.pipeline(record)

    def _draw(self, epoch: int, sample_idx: int, num_expressions: int) -> int:
        if num_expressions == 1:
            return 0
        if epoch < 0:
            return int(np.random.randint(num_expressions))
        return int(np.random.default_rng((self.seed, epoch, sample_idx)).integers(num_expressions))

    def set_epoch(self, epoch: int) -> None:
        """Fix which sentences 'random' draws.

        They become a function of seed, epoch and sample, whatever the number of workers and processes, so that a
        resumed run draws as an uninterrupted one. Reaches workers that already run.

        Training by iterations does not call it. There indices that carry their epoch
        (:class:`~mmetris.datasets.samplers.EpochInfiniteSampler`) give the same; with any other sampler sentences
        come from NumPy's global state, which MMEngine seeds and a resumed run does not repeat.

        Args:
            epoch: Counted from 0.
        """
        self._epoch.value = epoch

    def get_cat_ids(self, idx: int) -> list[int]:
        """COCO categories of a sample's objects, for samplers and wrappers that balance classes."""
        category_id = self.get_data_info(idx)['category_id']
        return category_id if isinstance(category_id, list) else [category_id]

    def image_keys(self) -> list[str]:
        """The image of each sample under the name that :func:`~mmetris.datasets.refer.image_key` gives it."""
        return [self.key_of_image(self.get_data_info(idx)) for idx in range(len(self))]

    def key_of_image(self, record: dict) -> str:
        """The name that an image is recognised by.

        Args:
            record: A record of the data set.
        """
        return image_key(record['img_path'])

    def held_out_images(self) -> frozenset[str]:
        """Keys of the images in every split of ``split_file`` that is there to test on ('val...', 'test...')."""
        if self._held_out_images is None:
            refs = self._load_refs()
            return self._find_held_out_images(refs, load_instances(self.ann_file, self.backend_args))
        return self._held_out_images

    def _find_held_out_images(self, refs: list[dict], instances: Instances) -> frozenset[str]:
        splits = set(held_out_splits(refs))
        image_ids = {ref['image_id'] for ref in refs if ref['split'] in splits}
        # An image that is not in ann_file is an error of its own split, reported when that is loaded.
        return frozenset(
            image_key(self._image_path(instances.images[image_id]))
            for image_id in image_ids
            if isinstance(instances.images.get(image_id, {}).get('file_name'), str)
        )


def _name_sentences(records: list[dict]) -> None:
    """Give each sentence a file name of its own where image and ``sent_id`` repeat: in home-made files ids may start
    anew in each object, and images of two folders may have one name."""
    sentences = [
        (record, dict(img_path=record['img_path'], sent_id=sent_id, sample_idx=index))
        for index, record in enumerate(records)
        for sent_id in record['sent_ids']
    ]
    names = [sample_name(sentence) for _, sentence in sentences]
    if len({name.casefold() for name in names}) == len(names):
        return
    free = FreeNames(reserved=names)
    for (record, _), name in zip(sentences, names):
        record.setdefault('sample_names', []).append(free.of(name))


def context_length_of(pipeline: Compose) -> int | None:
    """Token length of a pipeline's TokenizeExpression, also inside TestTimeAug; None without one.

    Args:
        pipeline: The pipeline of a data set.
    """
    for transform in pipeline.transforms:
        if isinstance(transform, TokenizeExpression):
            return transform.context_length
        for branch in getattr(transform, 'subroutines', ()):
            return context_length_of(branch)
    return None
