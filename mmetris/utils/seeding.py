"""Seeds for all generators at once."""

from __future__ import annotations

import random

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


__all__ = ['seed_everything']
