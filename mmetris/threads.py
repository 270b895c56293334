"""How many threads the commands compute with, and how these wait; chosen when this is imported, before PyTorch is.

OpenMP's threads spin while they wait for each other. Where another program needs a core, one of them is off it and the
others burn theirs until it comes back: on two busy cores two threads were 8 times slower than one, and faster than one
when they wait without spinning (docs/benchmarks.md). How they wait is read once, when PyTorch is imported, and changes
no result; how many they are does, in the last digits, so that the number depends on the machine, not on its load.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

CGROUP = Path('/sys/fs/cgroup')


def available_cores() -> int:
    """Cores that this process may use: those it is bound to, or the share that its container has, if that is less."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # Not on macOS and Windows.
        cores = os.cpu_count() or 1
    quota = _container_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _container_quota() -> float | None:
    """Cores' worth of time that a container may take, None where there is no limit."""
    try:
        if (CGROUP / 'cpu.max').is_file():
            quota, period = (CGROUP / 'cpu.max').read_text().split()
        else:  # The first version of control groups.
            quota, period = ((CGROUP / 'cpu' / f'cpu.cfs_{name}_us').read_text() for name in ('quota', 'period'))
        share = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return share if share > 0 else None


def threads_for(processes: int = 1) -> int:
    """Threads of each of several processes that share the cores.

    Args:
        processes: How many. Defaults to 1.
    """
    return max(1, available_cores() // processes)


def choose_threads() -> None:
    """Set OpenMP's variables where the user did not: ``OMP_WAIT_POLICY``, and ``OMP_NUM_THREADS`` where a container's
    share is less than the cores that OpenMP would count."""
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
    if _container_quota() is not None:
        os.environ.setdefault('OMP_NUM_THREADS', str(threads_for()))


choose_threads()

if __name__ == '__main__':  # tools/launch.sh asks.
    print(threads_for(int(sys.argv[1])))
