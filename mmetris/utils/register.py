"""The entrance that MMEngine's hub expects of each package."""

from __future__ import annotations

import importlib

from mmengine.registry import init_default_scope as set_default_scope


def register_all_modules(init_default_scope: bool = True) -> None:
    """Import all that registers itself; ``mmengine.hub.get_model('mmetris::...')`` calls it.

    Elsewhere it is not needed: registries import their modules when they are first asked for a name.

    Args:
        init_default_scope: Whether names without a prefix are mmetris's from now on. Defaults to True.
    """
    for name in ('datasets', 'engine', 'evaluation', 'models', 'visualization'):
        importlib.import_module(f'mmetris.{name}')
    if init_default_scope:
        set_default_scope('mmetris')


__all__ = ['register_all_modules']
