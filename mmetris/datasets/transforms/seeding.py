"""Random transforms that a resumed run repeats."""

from __future__ import annotations

from mmcv.transforms import BaseTransform

from ...registry import TRANSFORMS
from ...utils.seeding import seed_everything


@TRANSFORMS.register_module()
class SeedSample(BaseTransform):
    """Seed all generators from (seed, epoch, sample), for the random transforms behind this one.

    Put it first in the pipeline of a training by iterations whose sampler is :class:`EpochInfiniteSampler`. Random
    transforms then no longer depend on the process that reads the sample, nor on what that read before, so that a
    resumed run repeats them, whatever the number of workers. Each epoch draws anew.

    Required keys: ``sample_idx``, an :class:`EpochIndex`.

    Args:
        seed: What to derive the seeds from, not negative. Defaults to 0.

    Raises:
        ValueError: If ``seed`` is negative.
        TypeError: If the sampler is another one, whose indices carry no epoch.
    """

    def __init__(self, seed: int = 0) -> None:
        if seed < 0:
            raise ValueError(f'seed must not be negative, but is {seed}')
        self.seed = seed

    def transform(self, results: dict) -> dict:
        """Seed; the sample stays as it is."""
        index = results['sample_idx']
        if not hasattr(index, 'epoch'):
            raise TypeError(
                'SeedSample needs indices that carry their epoch: set train_dataloader.sampler.type to '
                "'EpochInfiniteSampler', or remove SeedSample from the pipeline"
            )
        # From 1: NumPy's SeedSequence takes trailing zeros for nothing.
        seed_everything(self.seed, index.epoch + 1, index + 1)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(seed={self.seed})'


__all__ = ['SeedSample']
