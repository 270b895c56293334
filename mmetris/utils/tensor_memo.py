"""Results of tensors that hardly ever change: computed once, and again only after one of them has changed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar('Result')

# Position embeddings of as many grids, weights in as many layouts and types.
MAX_RESULTS = 16


class _Version:
    """Which tensors, and which state of each: the object, its memory, the count of its changes in place, its type."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        # Weakly, and not by address alone: a new tensor may lie where one lay that is gone.
        self._states = [(weakref.ref(tensor), *_state(tensor)) for tensor in tensors]

    def is_of(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these are the same tensors, unchanged."""
        return len(tensors) == len(self._states) and all(
            reference() is tensor and state == _state(tensor)
            for tensor, (reference, *state) in zip(tensors, self._states)
        )


def _state(tensor: Tensor) -> list:
    return [tensor.data_ptr(), tensor._version, tensor.dtype]


class TensorMemo:
    """Results by key, each for one state of the tensors that it was computed from.

    Nothing is kept, and every call computes anew, where a result could not serve later: of tensors that are tuned (they
    carry gradients, and moving averages change them through ``.data``, which PyTorch does not count), in a graph that
    is compiled or traced, which has constants of its own, and of tensors that count no changes (those made in inference
    mode).
    What is kept can take part in a training: it is computed without gradients and outside of inference mode.

    A copy of the memo, such as that in a copied model, begins empty.
    """

    def __init__(self) -> None:
        self._results: dict[Hashable, tuple[_Version, Any]] = {}

    def get(self, key: Hashable, tensors: Iterable[Tensor | None], compute: Callable[[], Result]) -> Result:
        """The result of ``compute``, which is called only if it is not known.

        Args:
            key: All that the result depends on besides the tensors: a size, a type, the names of the tensors.
            tensors: What the result is computed from, parameters and buffers themselves and no views of them; None
                stands for none.
            compute: Computes it.
        """
        present = [tensor for tensor in tensors if tensor is not None]
        is_recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if is_recorded or any(tensor.requires_grad or tensor.is_inference() for tensor in present):
            return compute()
        kept = self._results.get(key)
        if kept is None or not kept[0].is_of(present):
            with torch.inference_mode(False), torch.no_grad():
                kept = _Version(present), compute()
            self._results.pop(key, None)
            while len(self._results) >= MAX_RESULTS:
                self._results.pop(next(iter(self._results)))
            self._results[key] = kept
        return kept[1]

    def __deepcopy__(self, memo: dict) -> TensorMemo:
        return TensorMemo()

    def __reduce__(self) -> tuple:
        return TensorMemo, ()
