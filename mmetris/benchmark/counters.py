"""Seconds of calls that take turns, their FLOPs, and the memory they need."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

_aten = torch.ops.aten
# torch's own formulas, which some of its releases do not apply to the kernels of CPUs.
CPU_ATTENTION = {
    _aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda query, key, value, *args, **kwargs: sdpa_flop_count(query, key, value)
    ),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, query, key, value, *args, **kwargs: sdpa_backward_flop_count(grad, query, key, value)
    ),
}


def time_in_turns(calls: Mapping[str, Callable], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each repetition of each call; the calls take turns, after a round that warms up.

    On CUDA a call is timed from an idle device to an idle device.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            synchronize(device)
            started = time.perf_counter()
            call()
            synchronize(device)
            if turn > 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def synchronize(device: torch.device) -> None:
    """Wait until a CUDA device has done what it was given; others are never behind."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def matrix_product(device: torch.device, dtype: torch.dtype, side: int | None = None) -> tuple[Callable, int]:
    """A product of two square matrices, and its FLOPs.

    Args:
        device: Where.
        dtype: Of the matrices.
        side: Rows and columns. Defaults to None: 8192 on a GPU, 2048 elsewhere.
    """
    side = side or (8192 if device.type == 'cuda' else 2048)
    left, right = (torch.randn(side, side, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    return (lambda: torch.mm(left, right, out=out)), 2 * side**3


def count_flops(call: Callable) -> int:
    """FLOPs of matrix products, convolutions and attention in a call, by torch's counter; a multiply-add is two."""
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        call()
    return counter.get_total_flops()


class _FusedAttention(torch.autograd.Function):
    """What a fused kernel keeps of attention: queries, keys, values, the result, and a number for each query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(..., L, C), (..., S, C) and (..., S, D) -> (..., L, D), without values."""
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1]))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        """Gradients of the right shapes, without values."""
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


class _FusedOnMeta(TorchFunctionMode):
    """Device 'meta' computes attention with all its weights, which fused kernels of a GPU never write out."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention and args[0].device.type == 'meta':
            return _FusedAttention.apply(*args[:3])
        return func(*args, **(kwargs or {}))


def kept_for_backward(call: Callable, model: torch.nn.Module) -> int:
    """Bytes of all tensors that a call keeps for its backward pass, each storage once.

    A training step needs these at the end of its forward pass, beside parameters, gradients and the optimizer's state,
    and temporary tensors on top. On device 'meta' nothing is computed, and attention keeps what fused kernels do.

    Args:
        call: One step.
        model: Its parameters and buffers are not counted.
    """
    # PyTorch gives a storage the same object as long as somebody holds it, and these are held.
    own = {id(storage): storage for storage in _storages(*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept.update({id(storage): storage for storage in _storages(tensor)})
        return tensor

    with _FusedOnMeta(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return sum(storage.nbytes() for number, storage in kept.items() if number not in own)


def _storages(*tensors: Tensor) -> list[torch.UntypedStorage]:
    return [tensor.untyped_storage() for tensor in tensors]


def resident_growth(call: Callable) -> int:
    """Bytes by which a call, made twice, raises this process's resident memory at its peak (Linux)."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # What was freed and is still held would take in the call's tensors unseen.
    except (AttributeError, OSError):
        pass  # Another C library than glibc.
    try:
        Path('/proc/self/clear_refs').write_text('5')  # The peak so far becomes the present value.
    except OSError:
        pass  # Then the peak may be that of the time before the call, which is more.
    before = resident_bytes('VmRSS')
    for _ in range(2):  # The first step of an optimizer makes its state, the second has it beside the gradients.
        call()
    return max(0, resident_bytes('VmHWM') - before)


def resident_bytes(field: str) -> int:
    """A field of this process's status in bytes: ``'VmRSS'``, resident memory now, or ``'VmHWM'``, its peak.

    Raises:
        OSError: If the system tells no such field; only Linux does.
    """
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f'/proc/self/status has no {field}')
