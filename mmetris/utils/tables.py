"""Tables that depend on sizes alone (positions, coordinates): made once and shared."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import torch
from torch import Tensor

# A training uses two or three sizes, test-time augmentation and photographs of all shapes a few more.
MAX_TABLES = 16


def shared_table(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorator of a function whose result follows from its arguments, all of them hashable.

    The last 16 results are kept and shared between callers, who must not change them in place. They are made outside
    of inference mode, since a tensor made inside could never take part in training afterwards. A graph under
    compilation makes its own: it must neither capture nor fill what an eager call keeps.

    Args:
        make: Makes a table.

    Returns:
        The same function, which keeps. It has ``cache_info`` and ``cache_clear`` of :func:`functools.lru_cache`, and
        the function itself as ``__wrapped__``.
    """

    @lru_cache(maxsize=MAX_TABLES)
    def kept(*key: Any) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            return make(*key)

    @wraps(make)
    def table(*key: Any) -> Tensor:
        return make(*key) if torch.compiler.is_compiling() else kept(*key)

    table.cache_info, table.cache_clear = kept.cache_info, kept.cache_clear  # type: ignore[attr-defined]
    return table
