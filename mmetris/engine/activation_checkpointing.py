"""Activations computed again in the backward pass, with every gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


def checkpoint_activations(model: nn.Module, modules: str | Sequence[str]) -> None:
    """Have modules keep no activations but their inputs, and compute the others again in the backward pass.

    What MMEngine's ``turn_on_activation_checkpointing`` does, without PyTorch's reentrant way, in which a module whose
    input asks for no gradient gets none: the first tuned block of a frozen encoder would silently not learn. Modules
    that MMEngine has turned on already are taken over.

    Args:
        model: The model, not wrapped for distribution; changed in place.
        modules: Names of modules in it, e.g. ``'backbone.tower.transformer.resblocks.9'``.

    Raises:
        AttributeError: If the model has no module of such a name.
    """
    for name in [modules] if isinstance(modules, str) else modules:
        module = model.get_submodule(name)
        forward = vars(module).get('forward')
        # MMEngine's wrapper, which remembers what it wraps.
        forward = getattr(forward, '__wrapped__', forward) or module.forward
        module.forward = _again_in_backward(forward)


def _again_in_backward(forward: Callable) -> Callable:
    @wraps(forward)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return wrapper
