"""Places in a frozen tower, by the names of its modules, and how a branch beside the tower is bound to one.

A *branch* is a module of a tuning method. It is held by the method and called by the place, so the tower's own modules,
keys and weights stay what they are:

    after        x -> module -> branch -> y
    parallel     x -> module -> (+) -> y            the branch reads what goes into the module; or into another one,
                 +--> branch ----^                  that runs before it: from `start` to `end`
    projections  queries, keys or values of a packed attention (+) branch of the same input
    tokens       in front of the sequence, after its first token

Places are called by hooks of PyTorch, so whatever computes in a tower calls its modules, or has looked whether it may
leave that out (:mod:`mmetris.models.layers.shortcut`).
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..layers.attention import Attention
from ..layers.shortcut import TuningHook

Branch = Callable[[Tensor], Tensor]
Module = TypeVar('Module', bound=nn.Module)


def find_places(
    tower: nn.Module,
    patterns: str | Sequence[str],
    # A default of a generic parameter is right for those who leave it out; mypy asks that it suit all.
    kind: type[Module] | tuple[type[Module], ...] = nn.Module,  # type: ignore[assignment]
) -> dict[str, Module]:
    """Modules of a tower by their names.

    Args:
        tower: The tower.
        patterns: Names, or patterns of names in the shell's form, e.g. ``'transformer.resblocks.*.attn'`` or
            ``'layer[234].*.conv2'``; ``*`` matches dots too.
        kind: Class of the modules that are meant; others that match are left out. Defaults to any.

    Returns:
        The modules by name, in the tower's order.

    Raises:
        ValueError: If a pattern matches none of that class; the message names what comes near.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    known = {name: module for name, module in tower.named_modules() if name and isinstance(module, kind)}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            near = difflib.get_close_matches(pattern, known, n=3, cutoff=0.3) or list(known)[:3]
            kinds = kind if isinstance(kind, tuple) else (kind,)
            of_kind = '' if kind is nn.Module else f' of class {" or ".join(one.__name__ for one in kinds)}'
            raise ValueError(
                f'{pattern!r} matches no module{of_kind} of {type(tower).__name__}'
                + (f'; near it are {", ".join(near)}' if near else ', which has none')
            )
    return {name: module for name, module in known.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}


def key_of(place: str) -> str:
    """A place's name as the name of a module, which has no dots."""
    return place.replace('.', '_')


def add_after(module: nn.Module, branch: Branch) -> None:
    """Let a branch change what a module returns (of a tuple the first): ``y = branch(module(x))``.

    Args:
        module: The module in the tower.
        branch: Same shape in and out.
    """
    module.register_forward_hook(_After(branch))


def add_parallel(start: nn.Module, branch: Branch, end: nn.Module | None = None) -> None:
    """Add what a branch makes of the input of one module to the output of another one (of a tuple the first).

    Args:
        start: The module whose (first) input the branch reads.
        branch: From the shape of that input to the shape of that output.
        end: The module whose output it is added to; it runs after ``start`` in the same pass. Defaults to None:
            ``start`` itself.
    """
    if end is None or end is start:
        start.register_forward_hook(_Parallel(branch))
        return
    passing = _Passing(branch)
    start.register_forward_pre_hook(_Reads(passing))
    end.register_forward_hook(_Adds(passing))


def add_to_projection(attention: nn.Module, name: str, branch: Branch) -> None:
    """Add a branch to queries, keys or values of a packed attention; see :meth:`Attention.add_to_projection`.

    Args:
        attention: The attention in the tower.
        name: ``'q'``, ``'k'`` or ``'v'``.
        branch: (B, N, C) -> (B, N, C).

    Raises:
        ValueError: If it is no attention whose projections can be added to.
    """
    if not isinstance(attention, Attention):
        raise ValueError(
            f'{type(attention).__name__} has no projections that can be added to; CLIP towers have {Attention.__name__}'
        )
    attention.add_to_projection(name, branch)


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _with_first(output: Any, value: Tensor) -> Any:
    return (value, *output[1:]) if isinstance(output, tuple) else value


class _After(TuningHook):
    def __init__(self, branch: Branch) -> None:
        self.branch = branch

    def __call__(self, module: nn.Module, args: tuple, output: Any) -> Any:
        return _with_first(output, self.branch(_first(output)))


class _Parallel(TuningHook):
    def __init__(self, branch: Branch) -> None:
        self.branch = branch

    def __call__(self, module: nn.Module, args: tuple, output: Any) -> Any:
        return _with_first(output, _first(output) + self.branch(args[0]))


class _Passing:
    """What goes from the module that a branch reads to the one that it is added to, for each thread by itself."""

    def __init__(self, branch: Branch) -> None:
        self.branch = branch
        self.read: dict[int, Tensor] = {}

    @staticmethod
    def thread() -> int:
        """Number of the thread; graphs under compilation are made for any."""
        return 0 if torch.compiler.is_compiling() else threading.get_ident()


class _Reads(TuningHook):
    def __init__(self, passing: _Passing) -> None:
        self.passing = passing

    def __call__(self, module: nn.Module, args: tuple) -> None:
        # Now, and not when it is added: modules between may work in place.
        self.passing.read[self.passing.thread()] = self.passing.branch(args[0])


class _Adds(TuningHook):
    def __init__(self, passing: _Passing) -> None:
        self.passing = passing

    def __call__(self, module: nn.Module, args: tuple, output: Any) -> Any:
        return _with_first(output, _first(output) + self.passing.read.pop(self.passing.thread()))
