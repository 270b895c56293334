"""Places in a frozen tower, by the names of its modules, and how a branch beside the tower is bound to one.

A *branch* is a module of a tuning method. It is held by the method and called by the place, so the tower's own modules,
keys and weights stay what they are:

    after        x -> module -> branch -> y
    in series    x -> module -+-> (+) -> y          the branch reads what the module returns
                              +-> branch ^
    parallel     x -> module -> (+) -> y            the branch reads what goes into the module; or into another one,
                 +--> branch ----^                  that runs before it: from `start` to `end`
                                                   `x` may come with words that the encoder hands to the module
    projections  queries, keys or values of a packed attention (+) branch of the same input
    tokens       in front of the sequence, after its first token; or in the place of some that go into a block

Places are called by hooks of PyTorch, so whatever computes in a tower calls its modules, or has looked whether it may
leave that out (:mod:`mmetris.models.layers.shortcut`).
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..encoders.frozen_encoder import FrozenEncoder
from ..encoders.roles import ROLES
from ..layers.attention import Attention
from ..layers.shortcut import ReadingHook, TuningHook

Branch = Callable[[Tensor], Tensor]
Module = TypeVar('Module', bound=nn.Module)
# Names, patterns or roles of modules; in a mapping each with the module beside it that a branch is added to.
Places = str | Sequence[str] | Mapping[str, str | None]


class Handle(Protocol):
    """What takes a branch off again."""

    def remove(self) -> None:
        """Take it off."""


class Place(NamedTuple):
    """Where a branch goes.

    Args:
        name: Name of ``start`` in the tower.
        start: The module whose input, or output, the branch reads.
        end: The module whose output it changes: ``start``, or one that runs later in the same pass.
        beside: What ``end`` is called beside ``start``, None for itself.
    """

    name: str
    start: nn.Module
    end: nn.Module
    beside: str | None = None

    @property
    def key(self) -> str:
        """The place as the name of a module, which has no dots."""
        return key_of(self.name if self.beside is None else f'{self.name}.to.{self.beside}')

    @property
    def in_channels(self) -> int:
        """Width of what goes into ``start``."""
        return _width(self.name, self.start, first=True)

    @property
    def out_channels(self) -> int:
        """Width of what comes out of ``end``."""
        return _width(self.name, self.end, first=False)


def normalised(places: Places) -> dict[str, str | None]:
    """Places as a mapping from names, patterns or roles to the modules beside them, None for themselves."""
    if isinstance(places, Mapping):
        return dict(places)
    return dict.fromkeys([places] if isinstance(places, str) else places)


def places_of(
    encoder: FrozenEncoder,
    places: Places,
    kind: type[nn.Module] | tuple[type[nn.Module], ...] = nn.Module,
) -> list[Place]:
    """Places in an encoder's tower.

    Args:
        encoder: The encoder.
        places: Roles that the encoder names (``'attention'``, ``'ffn'``, ``'block'``, ``'conv'``:
            :attr:`FrozenEncoder.roles`), names of modules, or patterns of names, see :func:`find_places`. A mapping
            says besides, for each of them, which module beside it a branch is added to: ``{'layer4.*.conv2': 'bn2'}``;
            None is the module itself.
        kind: Class of the modules that are meant. Defaults to any.

    Returns:
        The places in the tower's order.

    Raises:
        ValueError: If the encoder has no such role, a pattern matches nothing, or there is no such module beside one.
    """
    patterns: dict[tuple[str, ...], str | None] = {}
    for wanted, beside in normalised(places).items():
        if wanted in encoder.roles:
            role = encoder.roles[wanted]
            patterns[role.names] = role.beside if beside is None else beside
        elif wanted in ROLES:
            raise ValueError(
                f'{type(encoder).__name__} has no places of the role {wanted!r}; it has '
                f'{", ".join(encoder.roles) or "none"}, or give names of modules in its tower'
            )
        else:
            patterns[(wanted,)] = beside
    found: dict[str, Place] = {}
    for names, beside in patterns.items():
        for name, start in find_places(encoder.tower, names, kind).items():
            end = start if beside is None else _beside(encoder.tower, name, beside)
            found[name] = Place(name, start, end, beside)
    return [found[name] for name, _ in encoder.tower.named_modules() if name in found]


def _beside(tower: nn.Module, name: str, sibling: str) -> nn.Module:
    parent = tower.get_submodule(name.rpartition('.')[0])
    if not isinstance(child := getattr(parent, sibling, None), nn.Module):
        children = ', '.join(key for key, _ in parent.named_children())
        raise ValueError(f'beside {name!r} there is no module {sibling!r}; there are {children}')
    return child


def _width(name: str, module: nn.Module, first: bool) -> int:
    """Channels that go into a module, or come out of it."""
    if (width := _known_width(module, first)) is None:
        raise ValueError(f'{name!r} is a {type(module).__name__}, whose width cannot be told: name a layer inside it')
    return width


def _known_width(module: nn.Module, first: bool) -> int | None:
    if isinstance(module, nn.Linear):
        return module.in_features if first else module.out_features
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        return module.in_channels if first else module.out_channels
    if isinstance(module, nn.MultiheadAttention):
        return module.embed_dim
    if isinstance(module, _BatchNorm):
        return module.num_features
    if isinstance(module, nn.LayerNorm):
        return module.normalized_shape[-1]
    children = list(module.children())
    widths = (_known_width(child, first) for child in (children if first else reversed(children)))
    return next((width for width in widths if width is not None), None)


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


def add_after(module: nn.Module, branch: Branch) -> Handle:
    """Let a branch change what a module returns (of a tuple the first): ``y = branch(module(x))``.

    Args:
        module: The module in the tower.
        branch: Same shape in and out.

    Returns:
        What takes it off again; so for all functions below.
    """
    return module.register_forward_hook(_After(branch))


def add_in_series(module: nn.Module, branch: Branch) -> Handle:
    """Add what a branch makes of a module's output (of a tuple the first) to it: ``y = z + branch(z)``, ``z =
    module(x)``.

    Args:
        module: The module in the tower.
        branch: Same shape in and out.
    """
    return module.register_forward_hook(_InSeries(branch))


def add_parallel(start: nn.Module, branch: Branch, end: nn.Module | None = None) -> Handle:
    """Add what a branch makes of the input of one module to the output of another one (of a tuple the first).

    Args:
        start: The module whose (first) input the branch reads.
        branch: From the shape of that input to the shape of that output.
        end: The module whose output it is added to; it runs after ``start`` in the same pass. Defaults to None:
            ``start`` itself.
    """
    if end is None or end is start:
        return start.register_forward_hook(_Parallel(branch))
    passing = _Passing(branch)
    reads = start.register_forward_pre_hook(_Reads(passing))
    return _Both(reads, end.register_forward_hook(_Adds(passing)))


def add_reader(module: nn.Module, branch: Callable[..., Tensor]) -> Handle:
    """Add to what a module returns what a branch makes of all that the module is called with: its input, the words that
    the encoder hands to it, the grid of the patches.

    Args:
        module: The module in the tower, called as ``module(x, words, grid_hw)``.
        branch: Called likewise; from the shape of x to that of what the module returns.
    """
    return module.register_forward_hook(_AddsReading(branch))


def exchange_tokens(block: nn.Module, first: int, tokens: Callable[[], Tensor]) -> Handle:
    """Put other tokens in the place of some that go into a block.

    Args:
        block: The block in the tower, whose (first) input is a sequence (B, L, C).
        first: Position of the first of them.
        tokens: Gives them, (P, C).
    """
    return block.register_forward_pre_hook(_Exchanges(first, tokens))


def add_to_projection(attention: nn.Module, name: str, branch: Branch) -> Handle:
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
    return attention.add_to_projection(name, branch)


class _Both:
    def __init__(self, *handles: Handle) -> None:
        self.handles = handles

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _with_first(output: Any, value: Tensor) -> Any:
    return (value, *output[1:]) if isinstance(output, tuple) else value


class _BranchHook(TuningHook):
    def __init__(self, branch: Branch) -> None:
        self.branch = branch


class _After(_BranchHook):
    def __call__(self, module: nn.Module, args: tuple, output: Any) -> Any:
        return _with_first(output, self.branch(_first(output)))


class _InSeries(_BranchHook):
    def __call__(self, module: nn.Module, args: tuple, output: Any) -> Any:
        returned = _first(output)
        return _with_first(output, returned + self.branch(returned))


class _Exchanges(TuningHook):
    def __init__(self, first: int, tokens: Callable[[], Tensor]) -> None:
        self.first, self.tokens = first, tokens

    def __call__(self, module: nn.Module, args: tuple) -> tuple:
        sequence, new = args[0], self.tokens()
        new = new.to(sequence.dtype).expand(sequence.shape[0], -1, -1)
        before, after = sequence[:, : self.first], sequence[:, self.first + new.shape[1] :]
        return (torch.cat([before, new, after], dim=1), *args[1:])


class _Parallel(_BranchHook):
    def __call__(self, module: nn.Module, args: tuple, output: Any) -> Any:
        return _with_first(output, _first(output) + self.branch(args[0]))


class _AddsReading(ReadingHook):
    def __init__(self, branch: Callable[..., Tensor]) -> None:
        self.branch = branch

    def __call__(self, module: nn.Module, args: tuple, output: Any) -> Any:
        return _with_first(output, _first(output) + self.branch(*args))


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
