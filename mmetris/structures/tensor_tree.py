"""Nested containers of tensors: what encoders hand from stage to stage, whatever it looks like.

A *tree* is a tensor, or a tuple, named tuple, list or dict of trees; anything else in it (a grid's height and width)
belongs to its form and stays as it is. Every tensor has the batch as its first axis.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor


def _map_leaves(function: Callable[[Any], Any], tree: Any, leaf: type) -> Any:
    """The same tree with each object of a class replaced."""
    if isinstance(tree, leaf):
        return function(tree)
    if isinstance(tree, dict):
        return {key: _map_leaves(function, part, leaf) for key, part in tree.items()}
    if isinstance(tree, (tuple, list)):
        parts = [_map_leaves(function, part, leaf) for part in tree]
        return type(tree)(*parts) if hasattr(tree, '_fields') else type(tree)(parts)
    return tree


def map_tensors(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """The same tree with each tensor replaced by what a function makes of it.

    Args:
        function: Of one tensor.
        tree: The tree, which is not changed.
    """
    return _map_leaves(function, tree, Tensor)


def tensors_of(tree: Any) -> list[Tensor]:
    """The tensors in a tree, from left to right, those of a dict in its order."""
    found: list[Tensor] = []
    map_tensors(found.append, tree)
    return found


class _Place(int):
    """Where in a form the tensor of that number stands."""


class TreeForm:
    """A tree without its tensors, to be filled with others.

    Args:
        tree: The tree.
    """

    def __init__(self, tree: Any) -> None:
        number = itertools.count()
        self._places = map_tensors(lambda tensor: _Place(next(number)), tree)

    def fill(self, tensors: Sequence[Tensor]) -> Any:
        """The tree with these tensors in the order of :func:`tensors_of`."""
        return _map_leaves(lambda place: tensors[place], self._places, _Place)
