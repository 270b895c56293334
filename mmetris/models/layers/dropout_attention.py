"""Attention with dropout of its weights, on processors for which PyTorch has no fused kernel of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Weights in memory at a time, of all heads together: 2 M, 8 MB in float32, which caches hold.
WEIGHTS_AT_ONCE = 1 << 21
LEVELS = 1 << 16  # of a random number of 16 bits, four of which are drawn at once


class DropoutAttention(torch.autograd.Function):
    """``softmax(query key^T / sqrt(c) + mask)``, dropout, times ``value``, for some queries at a time.

    PyTorch's own computation makes all weights, and keeps three tensors of their size for the backward pass. This one
    makes the weights again there, and keeps one byte for each: whether it was dropped. Most of PyTorch's time goes into
    random numbers, of which this one draws a quarter: the probability is rounded down to a multiple of 1 / 65536.

    Axes: B batch, N queries, M keys, c channels of a head.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
        """Attend.

        Args:
            ctx: Where autograd keeps what the backward pass needs.
            query: (B, heads, N, c).
            key: (B, heads, M, c).
            value: (B, heads, M, c).
            mask: True at keys to read, or what is added to the scores; it broadcasts to (B, heads, N, M). None: all are
                read.
            dropout: Probability with which a weight is dropped, below 1.

        Returns:
            (B, heads, N, c).
        """
        dropped = int(dropout * LEVELS)
        rescale = LEVELS / (LEVELS - dropped)
        scaled = query * query.shape[-1] ** -0.5
        out, kept = query.new_empty(*query.shape[:3], value.shape[3]), []
        for rows, rows_mask in _parts(scaled, key, mask):
            weights = _weights(scaled[:, :, rows], key, rows_mask)
            bits = torch.empty(-(-weights.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
            kept.append(bits[: weights.numel()].view(weights.shape) >= dropped - LEVELS // 2)
            out[:, :, rows] = weights.mul_(kept[-1].to(weights.dtype)) @ value
        ctx.save_for_backward(scaled, key, value, mask, *kept)
        ctx.rescale = rescale
        return out.mul_(rescale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of query, key and value, from that of the result (B, heads, N, c)."""
        scaled, key, value, mask, *kept = ctx.saved_tensors
        grad = grad * ctx.rescale
        grad_query, grad_key, grad_value = torch.empty_like(scaled), torch.zeros_like(key), torch.zeros_like(value)
        for (rows, rows_mask), keep in zip(_parts(scaled, key, mask), kept, strict=True):
            weights, keep = _weights(scaled[:, :, rows], key, rows_mask), keep.to(grad.dtype)
            grad_weights = (grad[:, :, rows] @ value.transpose(-2, -1)).mul_(keep)
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            grad_value += weights.mul_(keep).transpose(-2, -1) @ grad[:, :, rows]
            grad_query[:, :, rows] = grad_scores @ key
            grad_key += grad_scores.transpose(-2, -1) @ scaled[:, :, rows]
        return grad_query.mul_(scaled.shape[-1] ** -0.5), grad_key, grad_value, None, None


def _parts(query: Tensor, key: Tensor, mask: Tensor | None) -> Iterator[tuple[slice, Tensor | None]]:
    """Queries that attend at a time, and their part of the mask."""
    size = max(1, WEIGHTS_AT_ONCE // (query.shape[0] * query.shape[1] * key.shape[2]))
    for start in range(0, query.shape[2], size):
        rows = slice(start, start + size)
        yield rows, mask[..., rows, :] if mask is not None and mask.shape[-2] > 1 else mask


def _weights(scaled: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    scores = scaled @ key.transpose(-2, -1)
    if mask is not None:
        scores = scores + mask if mask.is_floating_point() else scores.masked_fill(~mask, float('-inf'))
    return scores.softmax(-1)
