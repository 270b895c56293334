"""Threads: the cores that may be used, shared out, and waiting without spinning; what a user set stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmetris import threads

ROOT = Path(__file__).parents[1]
VARIABLES = ('OMP_NUM_THREADS', 'OMP_WAIT_POLICY')


@pytest.mark.parametrize(
    'files, cores',
    [
        ({}, 8),
        ({'cpu.max': 'max 100000'}, 8),
        ({'cpu.max': '250000 100000'}, 3),
        ({'cpu.max': '50000 100000'}, 1),
        ({'cpu.max': '1600000 100000'}, 8),
        ({'cpu.max': 'nonsense'}, 8),
        ({'cpu/cpu.cfs_quota_us': '400000', 'cpu/cpu.cfs_period_us': '100000'}, 4),
        ({'cpu/cpu.cfs_quota_us': '-1', 'cpu/cpu.cfs_period_us': '100000'}, 8),
    ],
)
def test_cores_are_those_of_the_process_or_its_containers_share(tmp_path, monkeypatch, files, cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(threads, 'CGROUP', tmp_path)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda process: set(range(8)), raising=False)
    assert threads.available_cores() == cores
    assert threads.threads_for(2) == max(1, cores // 2) and threads.threads_for(99) == 1


def test_a_users_choice_stays(monkeypatch):
    monkeypatch.setattr(threads, '_container_quota', lambda: 1.0)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    threads.choose_threads()
    assert [os.environ[name] for name in VARIABLES] == ['1', 'PASSIVE']
    for name, value in zip(VARIABLES, ('3', 'ACTIVE')):
        monkeypatch.setenv(name, value)
    threads.choose_threads()
    assert [os.environ[name] for name in VARIABLES] == ['3', 'ACTIVE']


@pytest.mark.parametrize('name', ['train', 'test', 'deployment/export', 'analysis_tools/feature_maps'])
def test_tools_make_the_choice_before_anything_else_is_imported(name):
    """PyTorch reads it when it is imported, and most packages import PyTorch."""
    text = (ROOT / 'tools' / f'{name}.py').read_text()
    _, first, *_ = [line for line in text.splitlines() if line.startswith(('import ', 'from '))]
    assert first.startswith('import mmetris.threads')


def test_launchers_ask_for_the_share_of_a_process():
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    command = [sys.executable, '-m', 'mmetris.threads', '2']
    said = subprocess.run(command, env=env, text=True, capture_output=True, check=True).stdout
    assert int(said) == threads.threads_for(2)
    assert '-m mmetris.threads "$processes"' in (ROOT / 'tools/launch.sh').read_text()
