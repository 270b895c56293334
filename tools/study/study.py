"""A study: which trainings a small YAML file asks for, in which order, and which config each of them has.

A study file has::

    title, question          # what the report begins with
    config                   # of all variants that name none
    options                  # settings of all variants, with dotted keys, as --cfg-options has them
    data                     # folder: arguments of Python that make it, where it is missing
    settings                 # name: {hypothesis, options}, in each of which all variants are compared (default: one)
    variants                 # name: {config, options, paper}; `paper` is the name of a model in configs/*/metafile.yml
    reference                # the variant from which the others' differences are taken
    samples                  # training samples of a run, a list; null: the config's own schedule
    seeds                    # a list
    search                   # {option, values, seed, score, samples}: which value each variant is trained with
    test                     # splits
    kinds                    # names of Shapes' kinds of sentences, which come in turn, or `words` (docs/analysis.md)
    checkpoints              # how many a run of `samples` saves (default 8): what a kill costs at most is one part

``_base_`` names another study file that this one changes. A config's schedule counts epochs, a budget samples: the run
goes by iterations, and what the schedule does by epochs it does at the same part of the run.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmetris.utils.command_line import has_bridged_model
from mmetris.utils.text_files import read_text

ROOT = Path(__file__).resolve().parents[2]
KEYS = {
    'title': '',
    'question': '',
    'config': None,
    'options': {},
    'data': {},
    'settings': {'': {}},
    'variants': None,
    'reference': None,
    'samples': [None],
    'seeds': [0, 1, 2],
    'search': None,
    'test': ['val'],
    'kinds': [],
    'checkpoints': 8,
}
SEARCH_KEYS = {'option', 'values', 'seed', 'score', 'samples'}
# What decides which weights come out.
DECISIVE = ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler', 'randomness', 'load_from')
# Of a data loader: how many processes read the samples.
NOT_DECISIVE = ('num_workers', 'persistent_workers', 'pin_memory', 'prefetch_factor')
# Counted in epochs by MMEngine's schedulers.
SCHEDULE_TIMES = ('begin', 'end', 'T_max', 'milestones', 'step_size', 'total_iters')
_NAME = re.compile(r'[\w.+-]+')


@dataclass(frozen=True)
class Job:
    """A training and its test.

    Attributes:
        setting: Name of the setting; '' where there is one only.
        variant: Name of the variant.
        samples: Training samples; None for the config's own schedule.
        seed: Seed of weights and data order.
        value: Value of the option that is searched; None before it is chosen, or without search.
        is_search: Whether it serves to choose the value.
    """

    setting: str
    variant: str
    samples: int | None
    seed: int
    value: Any = None
    is_search: bool = False

    @property
    def name(self) -> str:
        """Its name, also of its folder: that of a searching job tells the value."""
        parts = [self.setting, self.variant, f'{self.samples or "all"}', f'seed{self.seed}']
        if self.is_search:
            parts.append(f'search-{self.value}')
        return '_'.join(part for part in parts if part)

    @property
    def group(self) -> tuple[str, str, int | None]:
        """What its seeds have in common: setting, variant, samples."""
        return self.setting, self.variant, self.samples


@dataclass
class Study:
    """What a study file says.

    Attributes:
        path: The file.
        content: Its content, complete, with the keys that this module's docstring lists.
    """

    path: Path
    content: dict[str, Any]
    _configs: dict[str, Config] = field(default_factory=dict, repr=False)
    _hashes: dict[Job, str] = field(default_factory=dict, repr=False)

    def __getattr__(self, name: str) -> Any:
        if name in KEYS:
            return self.content[name]
        raise AttributeError(name)

    def search_jobs(self, setting: str, variant: str) -> list[Job]:
        """The trainings that choose a variant's value; none where nothing is searched.

        Args:
            setting: Name of the setting.
            variant: Name of the variant.
        """
        if self.search is None:
            return []
        samples = self.search.get('samples', self.samples[0])
        return [Job(setting, variant, samples, self.search['seed'], value, True) for value in self.search['values']]

    def jobs(self) -> list[Job]:
        """All trainings in the order in which they are best begun: the first seed of all variants, each behind the
        search for its value, then seed by seed all variants."""
        pairs = [(setting, variant) for setting in self.settings for variant in self.variants]
        found = []
        for samples in self.samples:
            for seed in self.seeds:
                for pair in pairs:
                    if (samples, seed) == (self.samples[0], self.seeds[0]):
                        found += self.search_jobs(*pair)
                    found.append(Job(*pair, samples, seed))
        return found

    def with_value(self, job: Job, lines: Iterable[Mapping[str, Any]]) -> Job | None:
        """The job with the value of the searched option that scored best; itself where nothing is to be chosen.

        Args:
            job: A job.
            lines: Results of jobs that are over; those that failed do not take part.

        Returns:
            None while the search is not over, and if none of it ended well.
        """
        if self.search is None or job.is_search:
            return job
        searches = {self.hash_of(search): search.value for search in self.search_jobs(job.setting, job.variant)}
        over = {line['hash']: line for line in lines if line['hash'] in searches}
        scores = {cfg_hash: line['scores'][self.search['score']] for cfg_hash, line in over.items() if 'scores' in line}
        if over.keys() != searches.keys() or not scores:
            return None
        # Of equal scores the value that the study file names first.
        best = max((cfg_hash for cfg_hash in searches if cfg_hash in scores), key=scores.__getitem__)
        return replace(job, value=searches[best])

    def config_of(self, job: Job) -> Config:
        """The config of a job.

        Args:
            job: A job, with its value where one is searched.
        """
        variant, setting = self.variants[job.variant] or {}, self.settings[job.setting] or {}
        path = variant.get('config', self.config)
        if path not in self._configs:
            self._configs[path] = Config.fromfile(ROOT / path)
        cfg = copy.deepcopy(self._configs[path])
        for options in (self.options, setting.get('options'), variant.get('options')):
            cfg.merge_from_dict(copy.deepcopy(dict(options or {})))
        if job.value is not None:
            cfg.merge_from_dict({self.search['option']: job.value})
        cfg.randomness = dict(seed=job.seed)
        if has_bridged_model(cfg):
            cfg.model.init_seed = job.seed
        if job.samples is not None:
            set_budget(cfg, job.samples, self.checkpoints)
        return cfg

    def hash_of(self, job: Job) -> str:
        """Short hash of what in a job's config decides the result: model, data, schedule, optimizer, seed.

        Jobs of different studies that have the same hash are the same training.

        Args:
            job: A job, with its value where one is searched.
        """
        if job not in self._hashes:
            cfg = self.config_of(job)
            decisive = {key: cfg.get(key) for key in DECISIVE}
            decisive['train_dataloader'] = {
                key: value for key, value in cfg.train_dataloader.items() if key not in NOT_DECISIVE
            }
            text = json.dumps(decisive, sort_keys=True, default=str)
            self._hashes[job] = hashlib.sha256(text.encode()).hexdigest()[:12]
        return self._hashes[job]


def set_budget(cfg: Config, samples: int, checkpoints: int) -> None:
    """Have a training by epochs go by iterations until it has seen so many samples, and save the state a few times.

    Warm-up that counts iterations stays as it is; what counts epochs happens at the same part of the run. No epoch is
    picked as the best: the weights at the end are what is tested.

    Args:
        cfg: The config, changed in place.
        samples: How many.
        checkpoints: How many states are saved on the way, the last one at the end.

    Raises:
        ValueError: If the config's training is by iterations, or there are too few samples for an iteration.
    """
    epochs = cfg.train_cfg.get('max_epochs')
    if epochs is None:
        raise ValueError(f'samples={samples}: the config trains by iterations already; give `samples: [null]`')
    iters = samples // cfg.train_dataloader.batch_size
    if iters < 1:
        raise ValueError(f'samples={samples} are less than a batch, {cfg.train_dataloader.batch_size}')

    def rescaled(value: Any) -> Any:
        return [rescaled(one) for one in value] if isinstance(value, (list, tuple)) else round(value * iters / epochs)

    schedulers = []
    for scheduler in cfg.get('param_scheduler') or []:
        if scheduler.get('by_epoch', True):
            times = {key: rescaled(scheduler[key]) for key in SCHEDULE_TIMES if scheduler.get(key) is not None}
            scheduler = {**scheduler, **times, 'by_epoch': False}
            scheduler.pop('convert_to_iter_based', None)
        schedulers.append(scheduler)
    cfg.param_scheduler = schedulers
    # Beyond the end: the final weights are tested by a process of their own.
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=iters + 1)
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        cfg.pop(key, None)
    shuffle = cfg.train_dataloader.sampler.get('shuffle', True)
    cfg.train_dataloader.sampler = dict(type='EpochInfiniteSampler', shuffle=shuffle)
    cfg.default_hooks.checkpoint = dict(
        type='mmetris.AtomicCheckpointHook',
        by_epoch=False,
        interval=max(1, -(-iters // checkpoints)),
        max_keep_ckpts=1,
        save_last=True,
    )
    cfg.default_hooks.logger.update(interval=max(1, min(50, iters // 4)), log_metric_by_epoch=False)
    cfg.log_processor = dict(type='LogProcessor', window_size=50, by_epoch=False)


def read_study(path: str | Path) -> Study:
    """Read a study file.

    Args:
        path: A YAML file.

    Raises:
        ValueError: If a key is unknown or missing, or a value is none that it can have; the message names it.
    """
    path = Path(path)
    content = _read(path)
    if unknown := sorted(set(content) - set(KEYS)):
        raise ValueError(f'{path}: unknown key {unknown[0]!r}; known are {", ".join(KEYS)}')
    study = {**copy.deepcopy(KEYS), **content}
    for key in ('variants', 'settings', 'samples', 'seeds', 'test'):
        if not study[key]:
            raise ValueError(f'{path}: {key} is empty')
    for key in ('variants', 'settings'):
        for name, own in study[key].items():
            if name and not _NAME.fullmatch(str(name)):
                raise ValueError(f'{path}: {key}: {name!r} names a folder too: take letters, digits and . + - only')
            allowed = {'config', 'options', 'paper'} if key == 'variants' else {'hypothesis', 'options'}
            if unknown := sorted(set(own or {}) - allowed):
                raise ValueError(f'{path}: {key}.{name}: unknown key {unknown[0]!r}')
    if study['reference'] is not None and study['reference'] not in study['variants']:
        raise ValueError(f'{path}: reference {study["reference"]!r} is none of {", ".join(study["variants"])}')
    if study['search'] is not None:
        if not {'option', 'values', 'seed', 'score'} <= set(study['search']) <= SEARCH_KEYS:
            raise ValueError(f'{path}: search must have option, values, seed and score, perhaps samples')
        if study['search']['seed'] in study['seeds']:
            raise ValueError(
                f'{path}: search.seed is one of seeds: what is chosen by a run would be reported by it too'
            )
    for name, own in study['variants'].items():
        config = (own or {}).get('config', study['config'])
        if config is None or not (ROOT / config).is_file():
            raise ValueError(f'{path}: variant {name}: config {config} is not there')
    return Study(path, study)


def _read(path: Path) -> dict[str, Any]:
    """A study file and what it is based on: dicts are merged, one level deep, other values replaced."""
    import yaml

    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise ValueError(f'{path} is no YAML: {error}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} must hold keys and values, but holds {type(content).__name__}')
    base = content.pop('_base_', None)
    if base is None:
        return content
    merged = _read(path.parent / base)
    for key, value in content.items():
        is_merged = key == 'options' and isinstance(value, dict)
        merged[key] = {**merged.get(key, {}), **value} if is_merged else value
    return merged


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of a file of results.

    Args:
        path: The file; it need not be there.

    Raises:
        ValueError: If a line is no JSON.
    """
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(read_text(path).split('\n'), start=1):
        try:
            found += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise ValueError(f'{path}, line {number}: no JSON: {error}') from error
    return found
