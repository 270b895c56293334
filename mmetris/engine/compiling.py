"""``torch.compile`` of what costs time in a segmentor: the Bridger, which walks both encoders, and the decoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

PARTS = ('neck', 'decode_head')


def compile_parts(model: nn.Module, **options: Any) -> None:
    """Compile neck and decode head of a segmentor in place; parameters and state dict stay as they are.

    Samples and metrics stay outside, so each part is one graph. Compilation takes place at the first call, and again
    where sizes change.

    Args:
        model: A :class:`ReferringSegmentor` or :class:`ClassNameSegmentor`.
        **options: Of :func:`torch.compile`, e.g. ``mode='max-autotune-no-cudagraphs'``.

    Raises:
        ValueError: If the model has no such parts.
    """
    missing = [name for name in PARTS if not isinstance(getattr(model, name, None), nn.Module)]
    if missing:
        raise ValueError(
            f'{type(model).__name__} has no {" and no ".join(missing)} to compile: this is for a '
            'ReferringSegmentor or ClassNameSegmentor'
        )
    for name in PARTS:
        getattr(model, name).compile(**options)


@contextmanager
def eager(model: nn.Module) -> Iterator[nn.Module]:
    """Call compiled modules as they were before, inside the ``with`` block.

    Args:
        model: Any model.

    Yields:
        The model.
    """
    compiled = {
        module: module._compiled_call_impl
        for module in model.modules()
        if getattr(module, '_compiled_call_impl', None) is not None
    }
    for module in compiled:
        module._compiled_call_impl = None
    try:
        yield model
    finally:
        for module, call in compiled.items():
            module._compiled_call_impl = call
