"""Seeds for all generators at once."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_everything(*numbers: int) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators (CUDA's too) from several numbers at once.

    Unlike a sum, every combination gives a different seed: (seed 0, epoch 1) is not (seed 1, epoch 0).

    Args:
        numbers: What the seed is derived from; not negative.
    """
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def own_stream(seed: int | None, name: str) -> Iterator[None]:
    """Within it PyTorch's generator of the CPU draws what follows from seed and name alone; outside nothing changes.

    Args:
        seed: Not negative; None leaves the generator as it is.
        name: Whose random numbers these are.
    """
    if seed is None:
        yield
        return
    drawn = np.random.SeedSequence((seed, zlib.crc32(name.encode()))).generate_state(1)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(drawn[0]))
        yield


__all__ = ['own_stream', 'seed_everything']
