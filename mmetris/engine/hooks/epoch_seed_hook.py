"""Random numbers that depend on the epoch alone, so that a resumed run equals an uninterrupted one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from mmetris.registry import HOOKS
from mmetris.utils.seeding import seed_everything


def set_dataset_epoch(dataset: Any, epoch: int) -> int:
    """Tell a data set its epoch, through any wrappers (``ConcatDataset``, ``RepeatDataset``,
    ``ClassBalancedDataset``...).

    A wrapper with a ``set_epoch`` of its own passes it on itself; others are looked into by their ``dataset``
    or ``datasets``.

    Args:
        dataset: A data set or a wrapper of data sets.
        epoch: The epoch that starts, from 0.

    Returns:
        How many data sets or wrappers took it.
    """
    if callable(getattr(dataset, 'set_epoch', None)):
        dataset.set_epoch(epoch)
        return 1
    inner = [getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or [])]
    return sum(set_dataset_epoch(one, epoch) for one in inner if one is not None)


def _init_worker(worker_id: int, init_first: Callable[[int], None] | None, numbers: tuple[int, ...]) -> None:
    """What each loader process runs at its start: MMEngine's seeding, then ours, which knows the epoch."""
    if init_first is not None:
        init_first(worker_id)
    # From 1: NumPy's SeedSequence takes trailing zeros for nothing, and worker 0 must not repeat the main process.
    seed_everything(*numbers, worker_id + 1)


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seed every epoch from (seed, epoch, process), so that a resumed run equals an uninterrupted one.

    MMEngine restores weights, optimizer and schedules when it resumes, but not the state of the random
    generators, so dropout and random transforms differ from the run that was not interrupted. This hook makes
    them a function of the epoch. At the start of each epoch it

    - tells the data set its epoch (``set_epoch``), through wrappers, for data sets that draw sentences anew;
    - seeds Python's, NumPy's and PyTorch's generators in this process;
    - has the loader's processes seeded likewise when they start. Persistent ones start once and go on from
      there: a resumed run does not repeat the random transforms in them (the sentences it does, since the data
      set knows its epoch), so set ``persistent_workers=False`` where that matters.

    Training by iterations has no epochs: the hook then seeds before each iteration, which repeats what the model
    draws, and leaves the data set alone. What the data set and its transforms draw depends on the sampler:

    - :class:`~mmetris.datasets.samplers.EpochInfiniteSampler` gives every sample its epoch. Sentences then follow from
      (seed, epoch, sample), and so do random transforms behind
      :class:`~mmetris.datasets.transforms.seeding.SeedSample`; a resumed run equals an uninterrupted one.
    - With MMEngine's ``InfiniteSampler`` the order of the samples is repeated, but sentences and transforms are not:
      they come from the state of the generators of the process that reads the sample.

    A shuffling sampler gets the seed of the resumed run where MMEngine lets the seed be drawn by chance.

    Args:
        seed: What to derive the seeds from, not negative. Defaults to None, the runner's seed
            (``randomness=dict(seed=...)``, or the one of the checkpoint that is resumed).

    Raises:
        ValueError: If ``seed`` is negative.
    """

    # Before the hooks that may draw random numbers at the start of an epoch.
    priority = 'VERY_HIGH'

    def __init__(self, seed: int | None = None) -> None:
        if seed is not None and seed < 0:
            raise ValueError(f'`seed` must not be negative, but got {seed}')
        self.seed = seed
        self._seed_at_build: int | None = None

    def before_run(self, runner: Runner) -> None:
        """Remember the seed that samplers were built with, before a checkpoint replaces it.

        Args:
            runner: The runner.
        """
        self._seed_at_build = runner.seed

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed an epoch, or the start of a training by iterations.

        Args:
            runner: The runner of the training.
        """
        loader = runner.train_dataloader
        self._follow_resumed_seed(runner, loader)
        if not self._is_by_iteration(runner):
            set_dataset_epoch(loader.dataset, runner.epoch)
        self._seed_workers(runner, loader)
        seed_everything(*self._numbers(runner))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed an iteration of a training by iterations; nothing to do in one by epochs.

        Args:
            runner: The runner of the training.
            batch_idx: Not used.
            data_batch: Not used.
        """
        if self._is_by_iteration(runner):
            seed_everything(*self._numbers(runner))

    @staticmethod
    def _is_by_iteration(runner: Runner) -> bool:
        return isinstance(runner.train_loop, IterBasedTrainLoop)

    def _numbers(self, runner: Runner) -> tuple[int, int, int]:
        """(seed, epoch or iteration, process)."""
        seed = runner.seed if self.seed is None else self.seed
        return seed, runner.iter if self._is_by_iteration(runner) else runner.epoch, get_rank()

    def _seed_workers(self, runner: Runner, loader: DataLoader) -> None:
        init_first = loader.worker_init_fn
        if isinstance(init_first, functools.partial) and init_first.func is _init_worker:
            init_first = init_first.keywords['init_first']  # ours of the epoch before
        loader.worker_init_fn = functools.partial(_init_worker, init_first=init_first, numbers=self._numbers(runner))

    def _follow_resumed_seed(self, runner: Runner, loader: DataLoader) -> None:
        """Give the checkpoint's seed to a sampler that was built with a seed drawn by chance.

        MMEngine draws it where none is configured, builds the sampler with it, and only then reads the checkpoint.
        """
        sampler: Any = loader.sampler
        if not hasattr(sampler, 'seed'):
            sampler = getattr(loader.batch_sampler, 'sampler', None)
        built_with = getattr(sampler, 'seed', None)
        if built_with is not None and built_with == self._seed_at_build != runner.seed:
            sampler.seed = runner.seed


__all__ = ['EpochSeedHook', 'set_dataset_epoch']
