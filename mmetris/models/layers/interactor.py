"""Interactor: one modality listens to itself, then to the other (ETRIS, Sec. 3.2, eq. (5))."""

from __future__ import annotations

from mmengine.model import BaseModule
from torch import Tensor, nn

from .attention import Attention

COMBINE = ('add', 'multiply')


class Interactor(BaseModule):
    """Self-attention, cross-attention to the other modality, and a feed-forward network, for one modality.

    Each is followed by dropout, a residual and LayerNorm. The two modalities of a Bridger have one Interactor each,
    and take
    the steps in turn, because the cross-attention of one may read the self-attended features of the other::

        image -> attend_self -> attend_other(words) -> feed_forward -> image
        words -> attend_self -> attend_other(image) -> feed_forward -> words

    Args:
        embed_dims: Width d of the features.
        num_heads: Attention heads. Defaults to 8.
        ffn_dims: Hidden width of the feed-forward network. Defaults to 128, whatever ``embed_dims`` is; None leaves
            the network out.
        self_attention: Whether there is a self-attention. Defaults to True.
        cross_attention: Whether there is a cross-attention. Defaults to True; False where nobody reads what this
            modality learns of the other.
        combine: What happens to the result of the cross-attention: ``'add'`` (residual, then LayerNorm; default) or
            ``'multiply'`` (it multiplies the query, nothing after it).
        dropout: Probability of dropout after each step. Defaults to 0.1.
        attn_dropout: Probability of dropout of attention weights. Defaults to None: as ``dropout``. On a CPU, 0 is
            much faster: PyTorch has no fused attention with dropout there.

    Raises:
        ValueError: If ``embed_dims`` is not divisible by ``num_heads``, or ``combine`` is unknown.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int = 8,
        ffn_dims: int | None = 128,
        self_attention: bool = True,
        cross_attention: bool = True,
        combine: str = 'add',
        dropout: float = 0.1,
        attn_dropout: float | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        attn_dropout = dropout if attn_dropout is None else attn_dropout
        if embed_dims % num_heads:
            raise ValueError(f'embed_dims={embed_dims} of the Interactor is not divisible by num_heads={num_heads}')
        if combine not in COMBINE:
            raise ValueError(f'combine={combine!r} of the Interactor must be one of {COMBINE}')
        self.combine = combine
        self.dropout = nn.Dropout(dropout)
        self.self_attn: Attention | None = None
        self.self_attn_norm: nn.LayerNorm | None = None
        self.cross_attn: Attention | None = None
        self.cross_attn_norm: nn.LayerNorm | None = None
        self.ffn: nn.Sequential | None = None
        self.ffn_norm: nn.LayerNorm | None = None
        if self_attention:
            self.self_attn = Attention(embed_dims, num_heads, dropout=attn_dropout, batch_first=True)
            self.self_attn_norm = nn.LayerNorm(embed_dims)
        if cross_attention:
            self.cross_attn = Attention(embed_dims, num_heads, dropout=attn_dropout, batch_first=True)
        if cross_attention and combine == 'add':
            self.cross_attn_norm = nn.LayerNorm(embed_dims)
        if ffn_dims is not None:
            self.ffn = nn.Sequential(
                nn.Linear(embed_dims, ffn_dims), nn.ReLU(), nn.Dropout(dropout), nn.Linear(ffn_dims, embed_dims)
            )
            self.ffn_norm = nn.LayerNorm(embed_dims)

    def attend_self(self, features: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Self-attention, if there is one.

        Args:
            features: (B, N, C).
            padding_mask: (B, N), True where a key is to be left out.
        """
        if self.self_attn is None or self.self_attn_norm is None:
            return features
        attended, _ = self.self_attn(features, features, features, key_padding_mask=padding_mask, need_weights=False)
        return self.self_attn_norm(features + self.dropout(attended))

    def attend_other(self, features: Tensor, other: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Cross-attention to the other modality, if there is one.

        Args:
            features: (B, N, C), the queries.
            other: (B, M, C), keys and values.
            padding_mask: (B, M), True where a key is to be left out.
        """
        if self.cross_attn is None:
            return features
        attended, _ = self.cross_attn(features, other, other, key_padding_mask=padding_mask, need_weights=False)
        if self.combine == 'multiply':
            return features * attended
        assert self.cross_attn_norm is not None  # It comes with 'add'.
        return self.cross_attn_norm(features + self.dropout(attended))

    def feed_forward(self, features: Tensor) -> Tensor:
        """Feed-forward network on (B, N, C), if there is one."""
        if self.ffn is None or self.ffn_norm is None:
            return features
        return self.ffn_norm(features + self.dropout(self.ffn(features)))
