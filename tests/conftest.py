"""Several test processes share the machine's cores."""

import gc
import os
import signal

import torch

if 'PYTEST_XDIST_WORKER' in os.environ:
    workers = int(os.environ['PYTEST_XDIST_WORKER_COUNT'])
    threads = max(1, len(os.sched_getaffinity(0)) // workers) if hasattr(os, 'sched_getaffinity') else 1
    torch.set_num_threads(threads)
    os.environ.setdefault('OMP_NUM_THREADS', str(threads))  # for the processes that tests start
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # Of a job in the background, and all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What the imports left is never garbage, but MMEngine's data sets run the collector over all of it each time."""
    gc.collect()
    gc.freeze()
