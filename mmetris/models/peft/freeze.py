"""Freezing: which parameters of a pre-trained module stay as they are."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def freeze(module: nn.Module, except_: Sequence[str] = ()) -> None:
    """Stop the gradients of all parameters of a module.

    Args:
        module: The module, changed in place.
        except_: Full names of parameters that stay tunable.

    Raises:
        ValueError: If a name is no parameter of the module, so that a misspelt name is not silently frozen.
    """
    parameters = dict(module.named_parameters())
    if unknown := [name for name in except_ if name not in parameters]:
        raise ValueError(
            f'tunable_parameters {unknown} are no parameters of {type(module).__name__}; it has, among others, '
            f'{list(parameters)[:5]}'
        )
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in except_)
