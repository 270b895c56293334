"""What a task costs: time, memory, FLOPs, and the share of what this machine reaches in a large matrix product.

Paths that are to be compared take turns, so that what else the machine does meets all of them; the matrix product
takes its turn among them.
"""

from __future__ import annotations

import platform
import statistics
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from mmetris.benchmark.counters import count_flops, matrix_product, resident_growth, synchronize, time_in_turns
from mmetris.benchmark.loading import load_seconds
from mmetris.benchmark.tasks import DTYPES, Setting, build_task, on_path
from mmetris.engine.compiling import compile_parts
from mmetris.utils.param_count import count_parameters


@dataclass(frozen=True)
class Measurement:
    """What was measured of one path.

    Args:
        path: ``'fast'``; ``'plain'``; or the fast one but for one thing: ``'unshared'``: each sentence has its image
            encoded anew; ``'cached'``: the frozen prefix is read from files (in the page cache); ``'compiled'``:
            Bridger (with both encoders) and decoder are compiled.
        seconds: Of each repetition.
        images: Images of one repetition (of task ``'data'``: samples).
        sentences: Sentences of one repetition.
        flops: Of one repetition, None where there are none to count.
        matmul_rate: FLOP/s of the matrix product, median of the same run.
        peak_bytes: CUDA: the most that was allocated, weights included. CPU: growth of the resident memory over that of
            the built model, in a process of its own. None: not measured.
        tuned: Parameters that are tuned beside the head, where several models are measured.
    """

    path: str
    seconds: tuple[float, ...]
    images: int
    sentences: int
    flops: int | None = None
    matmul_rate: float | None = None
    peak_bytes: int | None = None
    tuned: int | None = None

    @property
    def median(self) -> float:
        """Median seconds of a repetition."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile of the seconds: the spread."""
        if len(self.seconds) == 1:
            return self.seconds * 2
        first, _, third = statistics.quantiles(self.seconds, n=4, method='inclusive')
        return first, third

    @property
    def matmul_share(self) -> float | None:
        """FLOP/s over those of the matrix product, 0..1 (and above, where the product is not the machine's best)."""
        if self.flops is None or self.matmul_rate is None:
            return None
        return self.flops / self.median / self.matmul_rate

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON: seconds, rates per second, bytes, FLOPs."""
        return dict(
            path=self.path,
            repeats=len(self.seconds),
            median_s=self.median,
            quartiles_s=self.quartiles,
            images_per_s=self.images / self.median,
            sentences_per_s=self.sentences / self.median,
            flops=self.flops,
            flops_per_s=None if self.flops is None else self.flops / self.median,
            matmul_flops_per_s=self.matmul_rate,
            matmul_share=self.matmul_share,
            peak_bytes=self.peak_bytes,
            **({} if self.tuned is None else dict(tuned=self.tuned)),
        )


def measure(
    cfg: Config, setting: Setting, paths: tuple[str, ...] = ('fast',), repeats: int = 10, with_memory: bool = True
) -> list[Measurement]:
    """Measure one task.

    Args:
        cfg: Config of the model; weight files are not read.
        setting: What is measured.
        paths: Of ``PATHS``, which take turns. Defaults to the fast one alone.
        repeats: Timed repetitions of each, after one that warms up. Defaults to 10.
        with_memory: Whether peak memory is measured. Defaults to True.

    Returns:
        One for each of ``paths``.

    Raises:
        ValueError: If the config does not suit the task, its image encoder is tuned and ``paths`` has ``'cached'``, or
            there is nothing to share and ``paths`` has ``'unshared'``.
    """
    if setting.task == 'data':
        seconds = load_seconds(cfg, setting, repeats)
        return [Measurement('fast', tuple(seconds), setting.batch, setting.batch)]
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory()) if 'cached' in paths else None
        return _measure_model(cfg, setting, paths, repeats, with_memory, folder)


def _measure_model(
    cfg: Config, setting: Setting, paths: tuple[str, ...], repeats: int, with_memory: bool, folder: str | None
) -> list[Measurement]:
    task = build_task(cfg, setting)
    if 'unshared' in paths and task.unshared is None:
        raise ValueError(
            f"path 'unshared' is for tasks 'multi' and 'train' with several sentences for each image, not "
            f'for {setting.task!r} with {setting.expressions}'
        )
    calls = {path: on_path(path, task, setting, folder) for path in paths}
    if folder is not None:
        calls['cached']()  # What it writes is there in every later epoch.
    flops = {path: count_flops(calls['fast'] if path == 'compiled' else call) for path, call in calls.items()}
    if 'compiled' in paths:
        compile_parts(task.model)
    # A compiler needs memory of its own, which a CPU's measurement cannot tell from the model's.
    unknown = {'cached'} if torch.device(setting.device).type == 'cuda' else {'cached', 'compiled'}

    def peak_of(path: str) -> int | None:
        return peak_memory(cfg, setting, path, calls[path]) if with_memory and path not in unknown else None

    return _in_turns(calls, flops, setting, repeats, peak_of)


def _in_turns(
    calls: Mapping[str, Callable],
    flops: Mapping[str, int],
    setting: Setting,
    repeats: int,
    peak_of: Callable[[str], int | None],
) -> list[Measurement]:
    """Measure calls that take turns with each other and with the matrix product; memory after all of them."""
    device = torch.device(setting.device)
    product, product_flops = matrix_product(device, DTYPES[setting.dtype], setting.matmul_side)
    seconds = time_in_turns({**calls, 'matmul': product}, repeats, device)
    rate = product_flops / statistics.median(seconds['matmul'])
    return [
        Measurement(name, tuple(seconds[name]), setting.batch, setting.sentences, flops[name], rate, peak_of(name))
        for name in calls
    ]


def measure_beside(
    configs: Mapping[str, Config], setting: Setting, repeats: int = 10, with_memory: bool = True
) -> list[Measurement]:
    """Measure one task of several models, which take turns.

    Args:
        configs: Their configs, by what they are called; weight files are not read.
        setting: What is measured.
        repeats: Timed repetitions of each, after one that warms up. Defaults to 10.
        with_memory: Whether peak memory is measured. Defaults to True.

    Returns:
        One for each config, with its name as ``path``.

    Raises:
        ValueError: If a config does not suit the task, or the task is ``'data'``, which no model takes part in.
    """
    if setting.task == 'data':
        raise ValueError("task 'data' has no models that could be compared")
    tasks = {name: build_task(cfg, setting) for name, cfg in configs.items()}
    calls = {name: on_path('fast', task, setting) for name, task in tasks.items()}
    flops = {name: count_flops(call) for name, call in calls.items()}

    def peak_of(name: str) -> int | None:
        return peak_memory(configs[name], setting, 'fast', calls[name]) if with_memory else None

    counts = {name: count_parameters(task.model) for name, task in tasks.items()}
    return [
        replace(row, tuned=count['total'] - count['frozen'] - count['head'])
        for row, count in zip(_in_turns(calls, flops, setting, repeats, peak_of), counts.values())
    ]


def peak_memory(cfg: Config, setting: Setting, path: str, call: Callable) -> int:
    """Peak memory of a task in bytes; see :class:`Measurement`.

    Args:
        cfg: Config of the model, to build it anew in a fresh process (CPU).
        setting: What is measured.
        path: One of ``PATHS``.
        call: The call, to be repeated here (CUDA).
    """
    device = torch.device(setting.device)
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        call()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:  # A process keeps what it once had.
        return pool.submit(_growth_of_path, cfg.to_dict(), setting, path, torch.get_num_threads()).result()


def _growth_of_path(cfg: dict, setting: Setting, path: str, threads: int) -> int:
    torch.set_num_threads(threads)
    task = build_task(Config(cfg), setting)
    return resident_growth(on_path(path, task, setting))


def describe_machine(device: str) -> dict[str, Any]:
    """What has to stand beside a figure: processor, threads, versions."""
    on_gpu = device.startswith('cuda')
    return dict(
        device=torch.cuda.get_device_name(device) if on_gpu else _processor(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        cuda=torch.version.cuda if on_gpu else None,
        python=platform.python_version(),
    )


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(':')[2].strip() for line in lines if line.startswith('model name')), platform.machine())
