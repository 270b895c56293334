"""mmetris: ETRIS referring image segmentation (ICCV 2023) as a plugin of MMSegmentation.

Importing the package only checks the versions of PyTorch, MMEngine, MMCV and MMSegmentation. Models, data sets and
metrics register themselves when a registry of :mod:`mmetris.registry` is first asked for a name.
"""

# ruff: noqa: E402
from __future__ import annotations

import os
import signal
import sys

# While the command is being imported, Ctrl-C ends it without a traceback; then mmetris.cli.run hears it.
_is_command = os.path.basename(next(iter(getattr(sys, 'argv', [])), '')) == 'mmetris'
if _is_command and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import importlib
import importlib.util
import re
import runpy
import warnings
from pathlib import Path
from typing import Any

from .version import __version__

# Lowest version that works and the first that is not known to: (minimum, exclusive maximum). Both the original
# packages and their maintained continuation (onedl-*) are covered; they share import names and numbering.
# PyTorch before 2.6 can be made to run code by a checkpoint that is read with weights_only=True (CVE-2025-32434).
SUPPORTED_VERSIONS = {
    'torch': ('2.6.0', '3.0.0'),
    'mmengine': ('0.10.0', '1.0.0'),
    'mmcv': ('2.0.1', '3.0.0'),
    'mmseg': ('1.2.0', '2.0.0'),
}

# mmcv without compiled ops says so when MMSegmentation imports its transformers; mmetris uses none of them.
warnings.filterwarnings('ignore', message='Fail to import ``MultiScaleDeformableAttention``')


def _release(version: str) -> tuple[int, ...]:
    """Numeric part of a version as a tuple that compares: ``'2.1.0rc1'`` -> ``(2, 1)``, as ``'2.1'`` is the same."""
    match = re.match(r'\d+(\.\d+)*', version)
    if match is None:
        raise ValueError(f'Cannot read a version number from {version!r}')
    return tuple(int(part) for part in re.sub(r'(\.0+)+$', '', match.group()).split('.'))


def check_versions(supported: dict[str, tuple[str, str]] = SUPPORTED_VERSIONS) -> None:
    """Check that PyTorch, MMEngine, MMCV and MMSegmentation are installed in versions that mmetris works with.

    What is not imported yet stays so.

    Args:
        supported: Import name -> (lowest version, first version that is too new).

    Raises:
        ImportError: If one is missing, too old or too new; the message names it and says what to install.
    """
    for name, (minimum, too_new) in supported.items():
        wanted = f'{name}>={minimum},<{too_new}'
        try:
            version = _version_of(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise ImportError(
                f'mmetris needs {name}, which is not installed. {_how_to_install(name, wanted)}'
            ) from error
        if not _release(minimum) <= _release(version) < _release(too_new):
            raise ImportError(
                f'mmetris works with {wanted}, but {version} is installed. '
                f'Install a version in that range, or a release of mmetris made for {name} {version}.'
            )


def _version_of(name: str) -> str:
    """``__version__`` of a package by its file ``version.py`` alone: PyTorch takes seconds to import, and the command's
    ``--help`` needs none of it. A package without such a file is imported.

    Raises:
        ModuleNotFoundError: If there is no such package.
    """
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    folders = [] if spec is None else spec.submodule_search_locations or []
    for file in (Path(folder) / 'version.py' for folder in folders):
        if file.is_file():
            return runpy.run_path(str(file))['__version__']
    return importlib.import_module(name).__version__


def _how_to_install(name: str, wanted: str) -> str:
    if name == 'torch':
        return f'Install it together with torchvision: "pip install \'{wanted}\' torchvision".'
    return (
        'In a fresh environment: "pip install -r requirements/mminstall.txt" (the maintained onedl-* packages); '
        f'in an environment with the original OpenMMLab packages: "mim install \'{wanted}\'".'
    )


check_versions()


def __getattr__(name: str) -> Any:
    # `mmetris.tokenize` without making `import mmetris` pay for torch's and open_clip's imports.
    if name == 'tokenize':
        from .utils.tokenizer import tokenize

        return tokenize
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


__all__ = ['__version__', 'check_versions', 'tokenize']
