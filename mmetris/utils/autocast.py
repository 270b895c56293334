"""Computing in a lower precision: autocast by the name of a type, and what it is set to."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from mmengine.config import Config
from torch import Tensor

DTYPES = ('float32', 'bfloat16', 'float16')


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """Type that autocast computes in at this place of the program, None where it is off.

    Args:
        device_type: ``'cpu'``, ``'cuda'``, ...
    """
    if not torch.amp.is_autocast_available(device_type):  # 'meta', which only counts
        return None
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None


def dtype_of_products(tensor: Tensor) -> torch.dtype:
    """Type that a convolution or matrix product of a tensor computes in at this place of the program.

    Args:
        tensor: One of its operands; autocast leaves float64 alone.
    """
    autocast = None if tensor.dtype == torch.float64 else autocast_dtype(tensor.device.type)
    return autocast or tensor.dtype


def check_dtype(dtype: str | None, setting: str) -> None:
    """Check that a type is one that models compute in.

    Args:
        dtype: One of ``DTYPES``, or None.
        setting: What the setting is called, for the message.

    Raises:
        ValueError: If it is another.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f'{setting}={dtype!r} must be one of {DTYPES}, or None, which is float32')


def is_lowered(dtype: str | None) -> bool:
    """Whether a type, one of ``DTYPES`` or None, is less precise than float32."""
    return dtype not in (None, 'float32')


def autocast_to(dtype: str | None, device_type: str) -> AbstractContextManager:
    """Autocast to a type; None and ``'float32'`` leave everything as it is.

    Args:
        dtype: One of ``DTYPES``, or None.
        device_type: ``'cpu'``, ``'cuda'``, ...

    Raises:
        ValueError: If it is float16 on a CPU.
    """
    if dtype is None or not is_lowered(dtype):
        return nullcontext()
    if dtype == 'float16' and device_type == 'cpu':
        raise ValueError('float16 is for GPUs; on a CPU compute in bfloat16 or float32')
    return torch.autocast(device_type, getattr(torch, dtype))


def set_test_dtype(cfg: Config, dtype: str | None) -> None:
    """Let the model that is built from a config predict in another type.

    Args:
        cfg: The config, whose ``model.test_cfg`` is changed; without a ``model``, whoever builds it says so.
        dtype: One of ``DTYPES``; None changes nothing.
    """
    if dtype is not None and 'model' in cfg:
        cfg.model.test_cfg = dict(cfg.model.get('test_cfg') or {}, dtype=dtype)
