"""Where what comes with the package is: configs, tools, weights. Nothing heavy is imported here."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def find_root(*needed: str) -> Path | None:
    """The folder with what comes with the package: the checkout, or ``mmetris/.mim`` where the package is installed.

    Args:
        needed: Files and folders that it must have, by their paths in it.

    Returns:
        None if neither has all of them.
    """
    roots = (PACKAGE.parent, PACKAGE / '.mim')
    return next((root for root in roots if all((root / name).exists() for name in needed)), None)


__all__ = ['PACKAGE', 'find_root']
