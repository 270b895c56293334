"""Multi-head attention that never writes its weights out, and whose packed projections can be added to."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .dropout_attention import DropoutAttention
from .shortcut import exchange_modules, take_over

PROJECTIONS = ('q', 'k', 'v')


class AddedBranch:
    """A branch on a projection of an attention.

    Args:
        branches: Those of the attention.
        added: One of them.
    """

    def __init__(self, branches: list, added: tuple) -> None:
        self._branches, self._added = branches, added

    def remove(self) -> None:
        """Take it off."""
        self._branches[:] = [other for other in self._branches if other is not self._added]


class Attention(nn.MultiheadAttention):
    """torch's multi-head attention by ``scaled_dot_product_attention``, in training and in evaluation.

    Parameters, their names and their initial values are torch's, and so are the results. torch's own ``forward``
    differs in its cost: in evaluation on a CPU it makes the whole matrix of weights, and it always copies the packed
    projections. With a single key, whose weight is 1 for every query, queries and scores are not computed at all;
    their parameters then get a gradient of zero, as they do where they are computed.

    Queries, keys and values come of one packed weight, which no hook can reach: :meth:`add_to_projection` adds to one
    of them.

    Axes: B batch, N queries, M keys, C channels.
    """

    @classmethod
    def of(cls, attention: nn.MultiheadAttention) -> Attention:
        """An attention with the parameters of another one, shared."""
        with torch.device('meta'):
            own = cls(
                attention.embed_dim,
                attention.num_heads,
                attention.dropout,
                bias=attention.in_proj_bias is not None,
                add_bias_kv=attention.bias_k is not None,
                add_zero_attn=attention.add_zero_attn,
                kdim=attention.kdim,
                vdim=attention.vdim,
                batch_first=attention.batch_first,
            )
        return take_over(own, attention)

    def add_to_projection(self, name: str, branch: Callable[[Tensor], Tensor]) -> AddedBranch:
        """Add to queries, keys or values what a branch makes of the same input.

        Args:
            name: ``'q'``, ``'k'`` or ``'v'``.
            branch: (B, N, its input's width) -> (B, N, C). If it is a module, it must be held, and saved, by somebody
                else.

        Returns:
            What takes it off again.

        Raises:
            ValueError: If there is no such projection.
        """
        if name not in PROJECTIONS:
            raise ValueError(f'projection {name!r} of an attention must be one of {PROJECTIONS}')
        branches = vars(self).setdefault('_branches', [])
        branches.append((PROJECTIONS.index(name), branch))
        return AddedBranch(branches, branches[-1])

    @property
    def is_added_to(self) -> bool:
        """Whether something is added to a projection."""
        return bool(vars(self).get('_branches'))

    def forward(  # type: ignore[override]  # Without the options of torch's that nobody gives here.
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            query: (B, N, C).
            key: (B, M, kdim).
            value: (B, M, vdim).
            key_padding_mask: Boolean (B, M), True at keys that are left out. Defaults to None: none.
            need_weights: Whether weights are wanted, which then have to be made. Defaults to False.
            attn_mask: (N, M), added to the scores. Defaults to None: nothing.

        Returns:
            (B, N, C), and the weights (B, N, M), mean over the heads, or None.
        """
        if need_weights or not self._is_simple:
            return self.literal_forward(query, key, value, key_padding_mask, need_weights, attn_mask)
        unmasked = key_padding_mask is None and attn_mask is None
        dropout = self.dropout if self.training else 0.0
        if key.shape[1] == 1 and unmasked and not dropout and not self.is_added_to:
            return self._attend_to_one(value).expand(-1, query.shape[1], -1), None
        queries, keys, values = self.heads(query, key, value)
        mask = None if unmasked else _joined_mask(key_padding_mask, attn_mask, queries.dtype)
        return self.join(_attend(queries, keys, values, mask, dropout)), None

    @property
    def _is_simple(self) -> bool:
        """Whether this is what CLIP and ETRIS use: batch first, no keys but those given."""
        return self.batch_first and self.bias_k is None and not self.add_zero_attn

    def literal_forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The same by torch's own ``forward``, or, where projections are added to, with the weights written out.

        Raises:
            ValueError: If projections are added to, and the attention is not batch first or adds keys of its own.
        """
        if not self.is_added_to:
            return super().forward(query, key, value, key_padding_mask, need_weights, attn_mask)
        if not self._is_simple:
            raise ValueError('projections can be added to only in an attention that is batch_first, without bias_kv')
        queries, keys, values = self.heads(query, key, value)
        scores = queries @ keys.transpose(-2, -1) / math.sqrt(queries.shape[-1])
        if key_padding_mask is not None or attn_mask is not None:
            mask = _joined_mask(key_padding_mask, attn_mask, scores.dtype)
            scores = scores + mask if mask.is_floating_point() else scores.masked_fill(~mask, float('-inf'))
        weights = F.dropout(scores.softmax(-1), self.dropout, self.training)
        return self.join(weights @ values), weights.mean(dim=1) if need_weights else None

    def heads(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Queries, keys and values as the heads read them.

        Args:
            query: (B, N, C).
            key: (B, M, kdim).
            value: (B, M, vdim).

        Returns:
            Three tensors (B, heads, its length, C / heads), with what is added to the projections.
        """
        projected = self._project(query, key, value)
        for index, branch in vars(self).get('_branches', ()):
            projected[index] = projected[index] + branch((query, key, value)[index])
        return [part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in projected]

    def join(self, attended: Tensor) -> Tensor:
        """What the heads have found, (B, heads, N, C / heads), through the output projection: (B, N, C)."""
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def projection_weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights of queries, keys and values, (C, its input's width) each: views where they are packed."""
        if self.in_proj_weight is None:
            return self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        query, key, value = self.in_proj_weight.chunk(3)
        return query, key, value

    def _biases(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        if self.in_proj_bias is None:
            return None, None, None
        query, key, value = self.in_proj_bias.chunk(3)
        return query, key, value

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Queries, keys and values, each (B, its length, C)."""
        if query is key and key is value and self.in_proj_weight is not None:
            return list(F.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1))
        return list(map(F.linear, (query, key, value), self.projection_weights(), self._biases()))

    def _attend_to_one(self, value: Tensor) -> Tensor:
        """What every query gets of a single key: (B, 1, vdim) -> (B, 1, C)."""
        query_weight, key_weight, value_weight = self.projection_weights()
        attended = self.out_proj(F.linear(value, value_weight, self._biases()[2]))
        if self.in_proj_weight is None and torch.is_grad_enabled():
            # A packed weight gets zeros in the rows that were not read; weights of their own would get no gradient at
            # all, which DDP takes for a mistake.
            attended = attended + 0 * (query_weight[0, 0] + key_weight[0, 0])
        return attended


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """``scaled_dot_product_attention``: (B, heads, N, c), (B, heads, M, c), (B, heads, M, c) -> (B, heads, N, c)."""
    # With dropout of weights there are fused kernels on GPUs only.
    if 0 < dropout < 1 and query.device.type == 'cpu' and not torch.compiler.is_compiling():
        return DropoutAttention.apply(query, key, value, mask, dropout)
    return F.scaled_dot_product_attention(query, key, value, mask, dropout)


def _joined_mask(key_padding_mask: Tensor | None, attn_mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    """One mask for ``scaled_dot_product_attention``: True at keys to read, or what is added to the scores."""
    if key_padding_mask is None:
        assert attn_mask is not None  # Nobody joins none.
        return attn_mask.to(dtype) if attn_mask.is_floating_point() else ~attn_mask
    keep = ~key_padding_mask[:, None, None]
    if attn_mask is None:
        return keep
    if not attn_mask.is_floating_point():
        return keep & ~attn_mask
    return attn_mask.to(dtype).masked_fill(~keep, float('-inf'))


def fuse_attention(module: nn.Module) -> nn.Module:
    """Put an :class:`Attention` in the place of every ``nn.MultiheadAttention`` below a module.

    Args:
        module: The module, changed in place; parameters stay the same objects under the same names.

    Returns:
        The module.
    """
    return exchange_modules(module, nn.MultiheadAttention, Attention.of)
