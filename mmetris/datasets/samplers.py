"""A sampler for training by iterations whose samples know which pass over the data set they belong to."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sized

import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from ..registry import DATA_SAMPLERS


class EpochIndex(int):
    """An index of a sample that carries the epoch it is drawn in.

    It is an ``int`` everywhere. What wrappers of data sets do to an index (``ConcatDataset`` subtracts,
    ``RepeatDataset`` takes the rest) keeps the epoch, and so does the way to a loader's process.

    Args:
        index: The index.
        epoch: Passes over the data set that were complete before it, from 0.
    """

    epoch: int

    def __new__(cls, index: int, epoch: int = 0) -> EpochIndex:
        value = super().__new__(cls, index)
        value.epoch = epoch
        return value

    def __add__(self, other: int) -> EpochIndex:
        return EpochIndex(int(self) + other, self.epoch)

    def __sub__(self, other: int) -> EpochIndex:
        return EpochIndex(int(self) - other, self.epoch)

    def __mod__(self, other: int) -> EpochIndex:
        return EpochIndex(int(self) % other, self.epoch)


@DATA_SAMPLERS.register_module()
class EpochInfiniteSampler(Sampler):
    """MMEngine's ``InfiniteSampler`` with indices that carry their epoch (:class:`EpochIndex`).

    For training by iterations, which has no epochs of its own: from the same seed it draws the same indices as
    ``InfiniteSampler`` for any number of processes, and counts the passes over the data set. So the sentence that
    :class:`RefCocoDataset` draws, and with :class:`SeedSample` the random transforms too, depend on the sample and
    on how often it was seen, not on the state of a loader's process, and a resumed run repeats them.

    Args:
        dataset: The data set.
        shuffle: Whether each pass has an order of its own. Defaults to True.
        seed: Seed of the order, the same in all processes. Defaults to None: drawn by chance.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        self.rank, self.world_size = get_dist_info()
        self.size = len(dataset)
        self.shuffle = shuffle
        self.seed = sync_random_seed() if seed is None else seed
        self._num_skipped = 0

    def __iter__(self) -> Iterator[EpochIndex]:
        start = self.rank + self._num_skipped * self.world_size
        yield from itertools.islice(self._indices(), start, None, self.world_size)

    def _indices(self) -> Iterator[EpochIndex]:
        """Those of all processes."""
        generator = torch.Generator()
        generator.manual_seed(self.seed)
        for epoch in itertools.count():
            order = torch.randperm(self.size, generator=generator) if self.shuffle else torch.arange(self.size)
            yield from (EpochIndex(index, epoch) for index in order.tolist())

    def skip(self, num_samples: int) -> None:
        """Start later, as the maintained MMEngine asks for when a run is resumed (the original one reads on).

        Args:
            num_samples: Indices of this process that were used already, counted from the start.

        Raises:
            ValueError: If ``num_samples`` is negative.
        """
        if num_samples < 0:
            raise ValueError(f'num_samples must not be negative, but is {num_samples}')
        self._num_skipped = num_samples

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        """Nothing to do: the sampler counts epochs itself.

        Args:
            epoch: Not used.
        """


__all__ = ['EpochIndex', 'EpochInfiniteSampler']
