"""What an epoch costs on many GPUs, on paper: computing, exchanging gradients, loading.

One step on n GPUs with b samples each takes

    b / rate  +  (1 - hidden) * [2 (n - 1) / n * bytes / bandwidth  +  2 (n - 1) * latency]

where the second term is a ring all-reduce of the gradients: each number travels once to be summed and once to be told.
The ring is as fast as its slowest link. Only tunable parameters have gradients, so that term is small here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# Objects of the training splits, each drawn once in an epoch with one of its sentences, by the config's split_file.
TRAIN_OBJECTS = {
    'refcoco/refs(unc).p': 42404,
    'refcoco+/refs(unc).p': 42278,
    'refcocog/refs(umd).p': 42226,
    'refcocog/refs(google).p': 44822,
}


@dataclass(frozen=True)
class Assumptions:
    """What the cost is computed from; all of it is printed beside the result.

    Args:
        samples: Samples of an epoch.
        batch: Samples of one GPU in one step.
        samples_per_s: Samples that one GPU trains on in a second, communication and loading left out.
        gradient_bytes: Bytes of all gradients, which every step exchanges.
        link_gb_s: GB/s (1e9 bytes) that each GPU sends inside a machine. Defaults to 450, NVLink of an H100.
        net_gb_s: GB/s that each GPU sends to another machine. Defaults to 50, a 400 Gbit/s adapter for each GPU.
        gpus_per_machine: Defaults to 8.
        latency_us: Microseconds of each of a ring's 2 (n - 1) steps. Defaults to 10.
        hidden: Share of the communication behind the backward pass, 0..1. Defaults to 0, the worst case.
        load_samples_per_s: Samples that one core decodes and packs in a second. Defaults to 130, measured on
            JPEGs of 640x480 (docs/benchmarks.md).

    Raises:
        ValueError: If a number is not positive (``hidden``: outside 0..1, ``latency_us``: negative).
    """

    samples: int
    batch: int
    samples_per_s: float
    gradient_bytes: int
    link_gb_s: float = 450
    net_gb_s: float = 50
    gpus_per_machine: int = 8
    latency_us: float = 10
    hidden: float = 0
    load_samples_per_s: float = 130

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name == 'hidden' and not 0 <= value <= 1:
                raise ValueError(f'hidden={value} is a share and must lie between 0 and 1')
            if name == 'latency_us' and value < 0:
                raise ValueError(f'latency_us={value} must not be negative')
            if name not in ('hidden', 'latency_us') and value <= 0:
                raise ValueError(f'{name}={value} must be positive')


@dataclass(frozen=True)
class EpochCost:
    """An epoch on n GPUs.

    Args:
        gpus: n.
        total_batch: Samples of one step on all GPUs.
        steps: Steps of the epoch; the last one may be filled up.
        compute_s: Seconds a GPU computes in a step.
        communication_s: Seconds of a step in which it waits for gradients.
        loading_cores: Cores on all machines that decode as fast as the GPUs compute.
    """

    gpus: int
    total_batch: int
    steps: int
    compute_s: float
    communication_s: float
    loading_cores: int

    @property
    def step_s(self) -> float:
        """Seconds of a step."""
        return self.compute_s + self.communication_s

    @property
    def communication_share(self) -> float:
        """Share of a step in which nothing is computed, 0..1."""
        return self.communication_s / self.step_s

    @property
    def epoch_s(self) -> float:
        """Seconds of the epoch, without validation."""
        return self.steps * self.step_s

    def as_dict(self) -> dict[str, float]:
        """Plain numbers for JSON."""
        return dict(vars(self), step_s=self.step_s, communication_share=self.communication_share, epoch_s=self.epoch_s)


def all_reduce_seconds(given: Assumptions, gpus: int) -> float:
    """Seconds of one ring all-reduce of the gradients, none of it hidden.

    Args:
        given: Bytes, bandwidths, latency.
        gpus: n, 1 or more.
    """
    if gpus == 1:
        return 0.0
    bandwidth = given.link_gb_s if gpus <= given.gpus_per_machine else min(given.link_gb_s, given.net_gb_s)
    return 2 * (gpus - 1) * (given.gradient_bytes / gpus / (bandwidth * 1e9) + given.latency_us * 1e-6)


def epoch_cost(given: Assumptions, gpus: int) -> EpochCost:
    """The cost of an epoch.

    Args:
        given: What it is computed from.
        gpus: n.

    Raises:
        ValueError: If ``gpus`` is below 1.
    """
    if gpus < 1:
        raise ValueError(f'gpus={gpus} must be 1 or more')
    total_batch = given.batch * gpus
    compute_s = given.batch / given.samples_per_s
    communication_s = (1 - given.hidden) * all_reduce_seconds(given, gpus)
    needed_per_s = total_batch / (compute_s + communication_s)
    # Rounded first: 100.00000000000001 samples/s at 50 samples/s per core are 2 cores.
    cores = math.ceil(round(needed_per_s / given.load_samples_per_s, 6))
    return EpochCost(gpus, total_batch, math.ceil(given.samples / total_batch), compute_s, communication_s, cores)
