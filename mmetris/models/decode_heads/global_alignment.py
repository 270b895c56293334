"""Global alignment: pixels read each other and the words (ETRIS, Sec. 3.3, eq. (8)).

Axes: B pairs, L words, C channels, H W grid, N = H * W pixels.
"""

from __future__ import annotations

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmetris.registry import MODELS
from mmetris.utils.shapes import hw_of

from ..layers.attention import Attention
from ..layers.position_encoding import sine_encoding_1d, sine_encoding_2d
from .hierarchical_alignment import check_heads


class GlobalAlignmentLayer(nn.Module):
    """Self-attention over pixels, cross-attention to words and a feed-forward network (ETRIS, eq. (8)).

    Each of the three is added to its input, and normalised before and (the attentions) after:
    ``x + dropout(LN(attention(LN(x))))``, ``x + dropout(FFN(LN(x)))``. Positions are added to queries and keys, never
    to values.

    Args:
        channels: Width of the pixels.
        word_channels: Width of the words.
        num_heads: Attention heads.
        ffn_dims: Hidden width of the feed-forward network, which also normalises its hidden features.
        dropout: Dropout of hidden features and of each result before it is added.
        attn_dropout: Dropout of attention weights.
    """

    def __init__(
        self, channels: int, word_channels: int, num_heads: int, ffn_dims: int, dropout: float, attn_dropout: float
    ) -> None:
        super().__init__()
        self.self_attention_norm = nn.LayerNorm(channels)
        self.self_attention = Attention(channels, num_heads, attn_dropout, batch_first=True)
        self.self_attention_out_norm = nn.LayerNorm(channels)
        self.cross_attention_norm = nn.LayerNorm(channels)
        self.cross_attention = Attention(
            channels, num_heads, attn_dropout, kdim=word_channels, vdim=word_channels, batch_first=True
        )
        self.cross_attention_out_norm = nn.LayerNorm(channels)
        self.ffn_norm = nn.LayerNorm(channels)
        self.ffn = nn.Sequential(
            nn.Linear(channels, ffn_dims),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.LayerNorm(ffn_dims),
            nn.Linear(ffn_dims, channels),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        pixels: Tensor,
        words: Tensor,
        pixel_positions: Tensor,
        word_positions: Tensor,
        padding_mask: Tensor | None,
    ) -> Tensor:
        """Align pixels with words.

        Args:
            pixels: ``(B, N, channels)``.
            words: ``(B, L, word_channels)``.
            pixel_positions: ``(N, channels)``.
            word_positions: ``(L, word_channels)``.
            padding_mask: Boolean ``(B, L)``, True at words that must not be read, or None.

        Returns:
            ``(B, N, channels)``.
        """
        normed = self.self_attention_norm(pixels)
        query = normed + pixel_positions
        attended = self.self_attention(query, query, normed, need_weights=False)[0]
        pixels = pixels + self.dropout(self.self_attention_out_norm(attended))

        query = self.cross_attention_norm(pixels) + pixel_positions
        attended = self.cross_attention(
            query, words + word_positions, words, key_padding_mask=padding_mask, need_weights=False
        )[0]
        pixels = pixels + self.dropout(self.cross_attention_out_norm(attended))

        return pixels + self.dropout(self.ffn(self.ffn_norm(pixels)))


@MODELS.register_module()
class GlobalAlignment(BaseModule):
    """A stack of :class:`GlobalAlignmentLayer` and a normalisation (ETRIS, Sec. 3.3 "Global Alignment Module").

    The cross-attention reads the words; eq. (8) writes the sentence feature there, which would be a single key.

    Args:
        word_channels: Width of the words.
        channels: Width D of the map. Defaults to 512, as in the paper.
        num_heads: Attention heads. Defaults to 8, as in the paper.
        num_layers: Layers. Defaults to 3, as in the released code.
        ffn_dims: Hidden width of the feed-forward networks. Defaults to 512, as in the released code.
        dropout: Dropout probability. Defaults to 0.1, as in the released code.
        attn_dropout: Dropout probability of attention weights. Defaults to None: as ``dropout``. On a CPU, 0 is much
            faster: PyTorch has no fused attention with dropout there.
        init_cfg: Initial weights, see MMEngine. Defaults to None: those of torch's layers.

    Raises:
        ValueError: If ``channels`` is no multiple of ``num_heads`` or of 4, or ``word_channels`` is odd: the sine
            positions need this.
    """

    def __init__(
        self,
        word_channels: int,
        channels: int = 512,
        num_heads: int = 8,
        num_layers: int = 3,
        ffn_dims: int = 512,
        dropout: float = 0.1,
        attn_dropout: float | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_heads(channels, num_heads)
        if channels % 4:
            raise ValueError(f'channels must be a multiple of 4 for the 2-D sine positions, but it is {channels}')
        if word_channels % 2:
            raise ValueError(f'word_channels must be even for the 1-D sine positions, but it is {word_channels}')
        self.layers = nn.ModuleList(
            GlobalAlignmentLayer(
                channels, word_channels, num_heads, ffn_dims, dropout, dropout if attn_dropout is None else attn_dropout
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(channels)

    def forward(
        self, feature_map: Tensor, words: Tensor, padding_mask: Tensor | None = None, ordered: bool = True
    ) -> Tensor:
        """Align a map with words.

        Args:
            feature_map: ``(B, channels, H, W)``.
            words: ``(B, L, word_channels)``.
            padding_mask: Boolean ``(B, L)``, True at words that must not be read. Defaults to None: all are read.
            ordered: Whether the words have positions. Defaults to True; class names, which are a set, have none.

        Returns:
            ``(B, channels, H, W)``, normalised over the channels.
        """
        channels, size = feature_map.shape[1], hw_of(feature_map)
        pixels = feature_map.flatten(2).transpose(1, 2)
        pixel_positions = sine_encoding_2d(size, channels, pixels.device, pixels.dtype)
        word_positions = sine_encoding_1d(words.shape[1], words.shape[2], words.device, words.dtype)
        if not ordered:
            word_positions = torch.zeros_like(word_positions)
        for layer in self.layers:
            pixels = layer(pixels, words, pixel_positions, word_positions, padding_mask)
        return self.norm(pixels).transpose(1, 2).unflatten(2, size)
