"""Which tensors of a module are pretrained, that they stay as they are, and where they are now."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize


class FrozenWeights:
    """The tensors that a module has when this is made, by the modules that own them.

    A tensor keeps its name here, the one that it has in the module now, wherever it is moved later: when a layer is
    wrapped, its own weight is still that layer's. What is added later is none of these tensors: it is neither frozen
    nor in evaluation mode, and no part of the identity.

    Args:
        module: The module.
        frozen: Whether the tensors stay as they are. Defaults to True: no parameter asks for a gradient, and all
            modules are in evaluation mode (dropout too).
        tunable: Names of parameters that are tuned although the rest is frozen.
        norm_eval: Whether BatchNorm keeps its statistics in training. Defaults to the value of ``frozen``.

    Raises:
        ValueError: If a name in ``tunable`` is no parameter of the module, so that a misspelt one is not silently
            frozen.
    """

    def __init__(
        self,
        module: nn.Module,
        frozen: bool = True,
        tunable: Collection[str] = (),
        norm_eval: bool | None = None,
    ) -> None:
        self.frozen = frozen
        self.norm_eval = frozen if norm_eval is None else norm_eval
        self._modules = list(module.modules())
        self._parameters: dict[str, tuple[nn.Module, str]] = {}
        self._buffers: dict[str, tuple[nn.Module, str]] = {}
        for key, owner, name in _places(module, remove_duplicate=True):
            (self._parameters if name in owner._parameters else self._buffers)[key] = owner, name
        self._tunable: set[str] = set(self._parameters) if not frozen else set()
        self.tune(tunable)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that are still there, by name: what a file of pretrained weights fills."""
        tensors = {name: _tensor(*place) for name, place in self._all_places().items()}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def _all_places(self) -> dict[str, tuple[nn.Module, str]]:
        return {**self._parameters, **self._buffers}

    @property
    def parameter_names(self) -> list[str]:
        """Names of all parameters, frozen or tuned."""
        return list(self._parameters)

    def tune(self, names: Collection[str]) -> None:
        """Let parameters be tuned from now on, although the rest is frozen.

        Args:
            names: Their names.

        Raises:
            ValueError: If one is no parameter of the module.
        """
        if unknown := [name for name in names if name not in self._parameters]:
            raise ValueError(
                f'tunable_parameters {unknown} are no parameters of {type(self._modules[0]).__name__}; it has, among '
                f'others, {self.parameter_names[:5]}'
            )
        self._tunable |= set(names)
        self.freeze()

    @property
    def tunable_names(self) -> set[str]:
        """Names of the parameters that are tuned."""
        return set(self._tunable)

    def untune(self, starts: tuple[str, ...]) -> None:
        """Let parameters stay as they are from now on, for those that nothing reads in the model at hand.

        Args:
            starts: What their names start with.
        """
        self._tunable -= {name for name in self._tunable if name.startswith(starts)}
        self.freeze()

    def freeze(self) -> None:
        """Have exactly the right parameters ask for gradients; nothing changes where they do already."""
        for name, (owner, local) in self._parameters.items():
            parameter = _tensor(owner, local)
            asks = name in self._tunable
            if parameter is not None and parameter.requires_grad != asks and parameter.is_leaf:
                parameter.requires_grad_(asks)

    def train(self, mode: bool) -> None:
        """Put the modules into training or evaluation mode, as far as they are not frozen; and :meth:`freeze`."""
        for module in self._modules:
            if isinstance(module, _BatchNorm):
                module.training = mode and not self.norm_eval
            else:
                module.training = mode and not self.frozen
        self.freeze()

    def fixed(self) -> dict[str, Tensor]:
        """The tensors that never change, by name: frozen parameters, and buffers unless BatchNorm statistics move."""
        if not self.frozen:
            return {}
        fixed = self._parameters.keys() - self._tunable
        if self.norm_eval:
            fixed |= self._buffers.keys()
        return {name: tensor for name, tensor in self.tensors().items() if name in fixed}

    def share(self, other: FrozenWeights) -> None:
        """Take over tensors of another module that are equal to ours, so that they are in memory once.

        Args:
            other: Those of the other module. What is tuned there is not taken.

        Raises:
            ValueError: If one of ours is not equal to that of the same name; nothing is shared then.
        """
        theirs = other.fixed()
        common = [(name, own, theirs[name]) for name, own in self.fixed().items() if name in theirs]
        for name, own, tensor in common:
            if own.shape != tensor.shape or not torch.equal(own, tensor.to(own.device)):
                raise ValueError(f'{name} has other values in one of the two models: they are not on the same weights')
        places = self._all_places()
        for name, _, tensor in common:
            owner, local = _home(*places[name])
            if local in owner._parameters:
                owner._parameters[local] = cast(nn.Parameter, tensor)
            else:
                owner._buffers[local] = tensor

    def keys_in(self, module: nn.Module) -> dict[str, str]:
        """Where the fixed tensors are in a module's state dict now: key -> name.

        Args:
            module: The module that these weights were made of, or one around it.
        """
        fixed = self.fixed()
        name_of = {id(tensor): name for name, tensor in fixed.items()}
        state = {key: _own(owner, name) for key, owner, name in _places(module, remove_duplicate=False)}
        return {key: name_of[id(tensor)] for key, tensor in state.items() if id(tensor) in name_of}


def _home(owner: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Where a module's own parameter or buffer really is: of a parametrized one the original is kept elsewhere."""
    if parametrize.is_parametrized(owner, name):
        return owner.get_submodule(f'parametrizations.{name}'), 'original'
    return owner, name


def _tensor(owner: nn.Module, name: str) -> Tensor | None:
    """A module's own parameter or buffer, of a parametrized one the original; None if it is there no longer."""
    return _own(*_home(owner, name))


def _own(owner: nn.Module, name: str) -> Tensor | None:
    return owner._parameters.get(name, owner._buffers.get(name))


def _places(module: nn.Module, remove_duplicate: bool) -> Iterator[tuple[str, nn.Module, str]]:
    """Key in a state dict, owner and name there of each parameter and persistent buffer.

    Args:
        module: The module.
        remove_duplicate: Whether a module that stands at several places counts once.
    """
    for prefix, owner in module.named_modules(remove_duplicate=remove_duplicate):
        start = f'{prefix}.' if prefix else ''
        names = [name for name, _ in owner.named_parameters(recurse=False)]
        names += [
            name for name, _ in owner.named_buffers(recurse=False) if name not in owner._non_persistent_buffers_set
        ]
        yield from ((start + name, owner, name) for name in names)
