"""What places in a tower are called, whatever the names of its modules."""

from __future__ import annotations

from collections.abc import Sequence
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


def transformer_roles(blocks: Sequence[str]) -> dict[str, Role]:
    """Roles of the modules in a Transformer whose blocks have an ``attn`` and an ``mlp``.

    Args:
        blocks: Names of its blocks in the tower.
    """
    return dict(
        attention=Role(tuple(f'{block}.attn' for block in blocks)),
        ffn=Role(tuple(f'{block}.mlp' for block in blocks)),
        block=Role(tuple(blocks)),
    )
