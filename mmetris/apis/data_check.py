"""What a config's data are, read without a model: counts, sentences, masks, repetitions, leaked images, pictures."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from pycocotools import mask as coco_mask

from mmetris.datasets import RefCocoDataset
from mmetris.datasets.refcoco import context_length_of
from mmetris.registry import DATASETS
from mmetris.utils.config_types import class_of, is_kind_of, type_name
from mmetris.utils.files import read_bytes
from mmetris.utils.image_io import decode_image
from mmetris.utils.text_files import writable
from mmetris.utils.tokenizer import count_tokens
from mmetris.visualization import draw_expressions

PHASES = ('train', 'val', 'test')
ERROR, WARNING = 'error', 'warning'
# What reading data raises when the data are at fault.
DATA_ERRORS = (ValueError, KeyError, TypeError, OSError, ImportError, pickle.UnpicklingError)
HELD_OUT = ('val', 'test')


@dataclass
class Problem:
    """Something to know before a training.

    Attributes:
        level: 'error': training or testing would stop at it; 'warning': it would not.
        where: Data set and split.
        message: What it is, with an example.
    """

    level: str
    where: str
    message: str


@dataclass
class SplitReport:
    """What one split of one data set holds.

    Attributes:
        objects: Objects, or sentences' targets.
        sentences: Sentences.
        images: Different images.
        no_target: Sentences that mean nothing in their image.
        empty_masks: Objects whose mask has no pixel though something is meant.
        full_masks: Objects whose mask has every pixel.
        longest: Tokens of the longest sentence, [SOS] and [EOS] among them.
        cut: Sentences longer than ``context_length``; None if the pipeline makes no tokens.
        context_length: Tokens that the pipeline keeps.
        repeated: Sentences that stand there again, of the same image and mask.
        ambiguous: Sentences of one image that have several masks.
        decoded: Pictures that were decoded; None if none was to be.
    """

    objects: int = 0
    sentences: int = 0
    images: int = 0
    no_target: int = 0
    empty_masks: int = 0
    full_masks: int = 0
    longest: int = 0
    cut: int | None = None
    context_length: int | None = None
    repeated: int = 0
    ambiguous: int = 0
    decoded: int | None = None


@dataclass
class DataReport:
    """What :func:`check_data` found.

    Attributes:
        splits: Data set -> split -> what is in it.
        problems: What is wrong or worth knowing, errors first.
        samples: Pictures (H, W, 3) RGB with their sentence and mask, if they were asked for.
    """

    splits: dict[str, dict[str, SplitReport]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    samples: list[np.ndarray] = field(default_factory=list)

    @property
    def num_errors(self) -> int:
        """How many problems would stop a training or a test."""
        return sum(problem.level == ERROR for problem in self.problems)

    def as_dict(self) -> dict[str, Any]:
        """All but the samples, of types that JSON has."""
        return dict(
            splits={
                name: {split: vars(report) for split, report in reports.items()}
                for name, reports in self.splits.items()
            },
            problems=[vars(problem) for problem in self.problems],
            num_errors=self.num_errors,
        )


class _Source:
    """A data set of a config, whichever of its splits, and who uses which."""

    def __init__(self, name: str, cfg: dict) -> None:
        self.name = name
        self.cfg = cfg
        self.used: dict[str, list[tuple[str, dict]]] = {}  # split -> phases and their configs
        self.lengths: dict[str, list[int]] = {}  # split -> tokens that the pipelines keep
        self.keys: dict[str, list[str]] = {}  # split -> keys of the images, of each sample
        self.contents: dict[str, dict[str, str]] = {}  # split -> checksum of a picture -> its path

    def place(self, split: str | None) -> str:
        """Data set and split in words."""
        return f'{self.name}, split {split!r}' if split else self.name

    def is_trained_on(self, split: str | None) -> bool:
        """Whether the config trains on a split."""
        return any(phase == 'train' for phase, _ in self.used.get(split or '', []))


def check_data(cfg: Config, decode: bool = False, num_samples: int = 0) -> DataReport:
    """Read all splits of a config's referring data sets.

    Args:
        cfg: The config; its model is not built.
        decode: Whether every picture is decoded. Defaults to False: it takes long.
        num_samples: How many samples are drawn, evenly spread over data sets and splits. Defaults to 0.

    Returns:
        Counts and problems.

    Raises:
        ValueError: If the config has no referring data set.
    """
    init_default_scope(cfg.get('default_scope', 'mmetris'))
    report = DataReport()
    sources = _find_sources(cfg)
    if not sources:
        types = dict.fromkeys(type_name(_dataset(cfg, phase)) for phase in PHASES if _dataset(cfg, phase))
        raise ValueError(f'the config has no referring data set to check, but {", ".join(types) or "none at all"}')
    to_draw: list[tuple[str, Any]] = []
    for source in sources:
        reports = report.splits.setdefault(source.name, {})
        for split in _splits_of(source, report):
            dataset = _read(source, split, report)
            if dataset is not None:
                reports[split or 'all'] = _check_split(dataset, source, split, decode, report)
                if num_samples:
                    to_draw.append((source.place(split), dataset))
    _check_leaks(cfg, sources, report)
    if num_samples:
        report.samples = list(_draw(to_draw, num_samples, report))
    report.problems.sort(key=lambda problem: problem.level != ERROR)
    return report


def _dataset(cfg: Config, phase: str) -> dict:
    return (cfg.get(f'{phase}_dataloader') or {}).get('dataset') or {}


def _leaves(cfg: Any, is_used: bool = True) -> Iterator[tuple[dict, bool]]:
    """Configs of the referring data sets inside of wrappers, and whether their samples are used: what a mixture leaves
    out is read too, for its images."""
    if not isinstance(cfg, Mapping) or 'type' not in cfg:
        return
    if is_kind_of(cfg, RefCocoDataset, DATASETS):
        yield dict(cfg), is_used
    for key in ('dataset', 'datasets', 'leave_out'):
        inner = cfg.get(key)
        for part in inner if isinstance(inner, (list, tuple)) else [inner]:
            yield from _leaves(part, is_used and key != 'leave_out')


def _find_sources(cfg: Config) -> list[_Source]:
    sources: dict[str, _Source] = {}
    for phase in PHASES:
        for leaf, is_used in _leaves(_dataset(cfg, phase)):
            files = {name: _setting(leaf, name) for name in ('data_root', 'ann_file', 'split_file', 'data_prefix')}
            key = json.dumps([type_name(leaf), files], default=str, sort_keys=True)
            if key not in sources:
                place = os.path.join(files['data_root'] or '', files['split_file'] or files['ann_file'])
                name = f'{type_name(leaf)} {place}'
                same = sum(source.name.split(' #')[0] == name for source in sources.values())
                sources[key] = _Source(f'{name} #{same + 1}' if same else name, leaf)
            splits = [_setting(leaf, 'split', 'train')]
            if phase == 'test':
                splits = (cfg.get('test_cfg') or {}).get('splits') or splits
            for split in splits if is_used else ():
                sources[key].used.setdefault(split or '', []).append((phase, leaf))
    return list(sources.values())


def _setting(leaf: dict, name: str, otherwise: Any = None) -> Any:
    """An argument of a data set: what the config says, or its default."""
    argument = inspect.signature(class_of(leaf, DATASETS)).parameters.get(name)
    return leaf.get(name, otherwise if argument is None else argument.default)


def _splits_of(source: _Source, report: DataReport) -> list[str]:
    """Names of the splits in the files, and those that the config asks for besides; '' is all that is there."""
    try:
        dataset = DATASETS.build({**source.cfg, 'lazy_init': True, 'pipeline': []})
        names = dataset.split_names()
        for difference in dataset.published_differences() or ():
            report.problems.append(Problem(WARNING, source.name, difference))
    except DATA_ERRORS as error:
        report.problems.append(Problem(ERROR, source.name, _said(error)))
        return []
    return list(dict.fromkeys([*source.used, *names]))


def _read(source: _Source, split: str, report: DataReport) -> RefCocoDataset | None:
    """All sentences of a split, those whose mask is empty too; None, with a problem, if it cannot be read."""
    where = source.place(split)
    for phase, leaf in source.used.get(split, []):
        try:
            length = context_length_of(Compose(leaf.get('pipeline', [])))
            source.lengths.setdefault(split, []).extend([] if length is None else [length])
        except DATA_ERRORS as error:
            report.problems.append(Problem(ERROR, where, f'the pipeline of {phase} cannot be built: {_said(error)}'))
    own: dict[str, Any] = dict(split=split or None, pipeline=[], lazy_init=False, indices=None, serialize_data=False)
    mode = dict(test_mode=True, text_mode='original')
    try:
        return DATASETS.build({**source.cfg, **own, **mode})
    except DATA_ERRORS as error:
        level = ERROR if split in source.used else WARNING
        report.problems.append(Problem(level, where, _said(error)))
        return None


def _said(error: BaseException) -> str:
    return ' '.join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())


def _check_split(dataset: RefCocoDataset, source: _Source, split: str, decode: bool, report: DataReport) -> SplitReport:
    found, where = SplitReport(), source.place(split)
    records = dataset.data_list  # As they are: a copy of each would take most of the time.
    found.sentences = len(records)
    images = {record['img_path']: record for record in records}
    found.images = len(images)
    source.keys[split] = [dataset.key_of_image(record) for record in records]

    def warn(names: list[str], text: str) -> int:
        if names:
            more = f', and {len(names) - 1} more' if len(names) > 1 else ''
            report.problems.append(Problem(WARNING, where, f'{text}: {writable(names[0])}{more}'))
        return len(names)

    objects: dict[Any, dict] = {}
    for record in records:
        objects.setdefault(record['ref_id'], record)
    found.objects = len(objects)
    found.no_target = sum(bool(record.get('no_target')) for record in records)
    areas = {key: int(coco_mask.area(record['segmentation'])) for key, record in objects.items()}
    found.empty_masks = warn(
        [_name_of(record) for key, record in objects.items() if not areas[key] and not record.get('no_target')],
        'masks without any pixel, which training leaves out and a test scores 0',
    )
    found.full_masks = warn(
        [_name_of(record) for key, record in objects.items() if areas[key] == record['height'] * record['width']],
        'masks that are the whole picture; perhaps inside and outside are exchanged',
    )
    if found.empty_masks == found.objects and source.is_trained_on(split):
        report.problems.append(Problem(ERROR, where, 'no object is left to train on: every mask is without a pixel'))
    _check_sentences(records, source, split, found, warn)
    if decode:
        found.decoded = _decode(images, source, split, where, report)
    return found


def _name_of(record: dict) -> str:
    return f'{record["img_path"]}, ref_id {record["ref_id"]} ("{record["expressions"][0]}")'


def _check_sentences(
    records: list[dict], source: _Source, split: str, found: SplitReport, warn: Callable[[list[str], str], int]
) -> None:
    texts = [record['expressions'][0] for record in records]
    tokens = {text: count_tokens(text) for text in set(texts)}
    found.longest = max(tokens.values(), default=0)
    if source.lengths.get(split):
        found.context_length = min(source.lengths[split])
        found.cut = warn(
            [f'"{text}" ({tokens[text]})' for text in texts if tokens[text] > found.context_length],
            f'sentences of more than {found.context_length} tokens, which are cut',
        )
    masks: dict[tuple[str, str], list[bytes]] = {}
    for record, text in zip(records, texts):
        key = record['img_path'], ' '.join(text.lower().split())
        masks.setdefault(key, []).append(bytes(record['segmentation']['counts']))
    names = {key: f'{key[0]} "{key[1]}"' for key in masks}
    found.repeated = sum(len(counts) - len(set(counts)) for counts in masks.values())
    warn(
        [names[key] for key, counts in masks.items() if len(counts) > len(set(counts))],
        'sentences that stand there again with the same image and mask',
    )
    found.ambiguous = warn(
        [names[key] for key, counts in masks.items() if len(set(counts)) > 1],
        'sentences that have several masks in one image, of which a model can learn no more than one',
    )


def _decode(images: dict[str, dict], source: _Source, split: str, where: str, report: DataReport) -> int:
    contents = source.contents.setdefault(split, {})
    for path, record in images.items():
        try:
            content = read_bytes(path)
            hw = decode_image(content, path).shape[:2]
            if hw != (record['height'], record['width']):
                raise ValueError(
                    f'{path} has {hw[0]} x {hw[1]} pixels (H x W), but its annotation says {record["height"]} x '
                    f'{record["width"]}'
                )
        except DATA_ERRORS as error:
            report.problems.append(Problem(ERROR, where, _said(error)))
            continue
        contents.setdefault(hashlib.sha256(content).hexdigest(), path)
    return len(images)


def _check_leaks(cfg: Config, sources: list[_Source], report: DataReport) -> None:
    """Images that are trained on and tested on, under one name or, where pictures were read, under two."""
    trained: dict[str, str] = {}
    contents: dict[str, str] = {}
    mixture = type_name(_dataset(cfg, 'train')) == 'MixedRefDataset'
    for source in sources:
        for split in source.used:
            if source.is_trained_on(split):
                where = source.place(split)
                trained.update(dict.fromkeys(source.keys.get(split, []), where))
                contents.update(dict.fromkeys(source.contents.get(split, {}), where))
    for source in sources:
        for split, keys in source.keys.items():
            if source.is_trained_on(split) or not (split in source.used or split.startswith(HELD_OUT)):
                continue
            where = source.place(split)
            leaked = [key for key in dict.fromkeys(keys) if key in trained]
            if leaked:
                done = ' (MixedRefDataset leaves them out of training)' if mixture else ''
                text = f'{len(leaked)} of {len(set(keys))} images are also trained on, in {trained[leaked[0]]}{done}'
                report.problems.append(Problem(WARNING, where, f'{text}: {writable(leaked[0])}'))
            same = [path for content, path in source.contents.get(split, {}).items() if content in contents]
            if len(same) > len(leaked):
                text = f'{len(same)} pictures are trained on too, some of them under another name'
                report.problems.append(Problem(WARNING, where, f'{text}: {writable(same[0])}'))


def _draw(datasets: list[tuple[str, RefCocoDataset]], number: int, report: DataReport) -> Iterator[np.ndarray]:
    for place, (where, dataset) in enumerate(datasets):
        share = number * (place + 1) // len(datasets) - number * place // len(datasets)
        share = min(share, len(dataset))
        for index in range(share):
            record = dataset.data_list[index * len(dataset) // share]
            path = record['img_path']
            try:
                image = decode_image(read_bytes(path), path)[..., ::-1]
                mask = coco_mask.decode(record['segmentation']) > 0
                text = writable(f'{dataset.split or "all"}: {record["expressions"][0]}')
                none = [bool(record.get('no_target'))]
                yield draw_expressions(np.ascontiguousarray(image), [text], [mask], no_target=none)
            except DATA_ERRORS as error:
                report.problems.append(Problem(ERROR, where, f'sample cannot be drawn: {_said(error)}'))
