"""What places in a tower are called, whatever the names of its modules."""

from __future__ import annotations

from typing import NamedTuple

ROLES = ('attention', 'ffn', 'block', 'conv')


class Role(NamedTuple):
    """The modules of a tower that have one role.

    Args:
        names: Names, or patterns of names in the shell's form; each must match.
        beside: The module beside each of them whose output a branch is added to. Defaults to None: its own.
    """

    names: tuple[str, ...]
    beside: str | None = None
