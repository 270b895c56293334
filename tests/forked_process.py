"""Functions in forked processes, as ``tools/dev/kill_test.py`` starts, watches and ends them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType


def _load() -> ModuleType:
    path = Path(__file__).parents[1] / 'tools/dev/kill_test.py'
    spec = importlib.util.spec_from_file_location('kill_test', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


kill_test = _load()
