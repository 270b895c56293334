"""When a module may be computed another way than by calling it.

Faster paths read a module's weights and never call it: a BatchNorm multiplied into the convolution before it, a
convolution that is made before an enlargement. That is right only as long as calling the module would do what its class
says and nothing else. One function decides it for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard, TypeVar

from torch import nn

Module = TypeVar('Module', bound=nn.Module)


def is_plain(module: nn.Module, *classes: type[Module]) -> TypeGuard[Module]:
    """Whether calling a module computes what one of the classes computes, and does nothing else.

    It does not where the module is of a subclass (a parametrization makes one) or of another class (a wrapper), has a
    ``forward`` of its own, or hooks, forward or backward (weight norm, pruning, adapters, observers). Torch's hooks of
    all modules at once, which are for profilers, do not count.

    Args:
        module: The module that a shortcut would not call.
        *classes: The classes that the shortcut knows.
    """
    return type(module) in classes and 'forward' not in vars(module) and not _own_hooks(module)


class TuningHook:
    """Base of the hooks by which tuning methods stand in a tower; what they do follows from tensors of its encoder."""


class ReadingHook(TuningHook):
    """Base of those that read words, so that what a module computes of an image depends on the sentence."""


def reads_words(root: nn.Module) -> bool:
    """Whether a tuning method that reads words stands at a module or at one in it."""
    return any(isinstance(hook, ReadingHook) for module in root.modules() for hook in _own_hooks(module))


def has_tuning_hooks(module: nn.Module) -> bool:
    """Whether a tuning method stands at a module itself."""
    return any(isinstance(hook, TuningHook) for hook in _own_hooks(module))


def is_unaltered(root: nn.Module) -> bool:
    """Whether what a module computes follows from the modules in it and their tensors.

    It does not where one of them has a ``forward`` of its own, or hooks other than :class:`TuningHook`: these may do
    another thing each time, so that nothing of what is computed can be kept.
    """
    return not any(
        'forward' in vars(module) or any(not isinstance(hook, TuningHook) for hook in _own_hooks(module))
        for module in root.modules()
    )


def structure_of(root: nn.Module) -> tuple[type, ...]:
    """Classes of a module and of those in it: with the tensors, what a result that is kept follows from."""
    return tuple(type(module) for module in root.modules())


def _own_hooks(module: nn.Module) -> list:
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return [hook for kind in hooks for hook in kind.values()]


def keeps_grid(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a module is a plain ``nn.Conv2d`` that moves by single cells over a map padded with zeros to its size."""
    return (
        is_plain(conv, nn.Conv2d)
        and conv.groups == 1
        and conv.padding_mode == 'zeros'
        and conv.stride == conv.dilation == (1, 1)
        and conv.padding == tuple(side // 2 for side in conv.kernel_size)
    )


def exchange_modules(root: nn.Module, kind: type[nn.Module], make: Callable[[Any], nn.Module]) -> nn.Module:
    """Put other modules in the place of all those of a class (and of no subclass) below a module.

    Args:
        root: Where to look; it is changed in place, and is not exchanged itself.
        kind: The class.
        make: Makes the new module of the old one. To keep parameters and their names it takes them over.

    Returns:
        ``root``.
    """
    for parent in list(root.modules()):
        for name, child in parent.named_children():
            if type(child) is kind:
                setattr(parent, name, make(child))
    return root


def take_over(new: Module, old: nn.Module) -> Module:
    """Give a module the parameters, buffers, children and mode of another one of the same structure, which stay shared.

    Args:
        new: Built without memory of its own (``torch.device('meta')``); filled in place.
        old: The module that it replaces, without hooks.

    Returns:
        ``new``.
    """
    for name, value in [*old.named_parameters(recurse=False), *old.named_children()]:
        setattr(new, name, value)
    for name, value in old.named_buffers(recurse=False):
        new._buffers[name] = value
    new.training = old.training
    return new
