"""DINOv2's Vision Transformer (Oquab et al., 2023; registers: Darcet et al., 2024), with the keys of its weight files.

    x -> norm1 -> attn -> ls1 -> (+) -> norm2 -> mlp -> ls2 -> (+) -> y

Axes: B images, N tokens, C channels, L words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-6  # Of every LayerNorm of DINOv2's.


class DINOv2Sizes(NamedTuple):
    """Sizes of a tower.

    Args:
        width: Channels C.
        depth: Number of blocks.
        num_heads: Attention heads.
        num_registers: Tokens without position after the class token. Defaults to 0.
        patch_size: Side of a patch in pixels. Defaults to 14.
        image_size: Side of the images whose grid the positions are of. Defaults to 518, a grid of 37 x 37.
        mlp_ratio: Hidden width of the feed-forward networks over C. Defaults to 4.
    """

    width: int
    depth: int
    num_heads: int
    num_registers: int = 0
    patch_size: int = 14
    image_size: int = 518
    mlp_ratio: float = 4


_SIZES = dict(s=DINOv2Sizes(384, 12, 6), b=DINOv2Sizes(768, 12, 12), l=DINOv2Sizes(1024, 24, 16))
REGISTERS = 4  # Of every published tower that has any.
ARCHS: Mapping[str, DINOv2Sizes] = {
    f'dinov2_vit{letter}14{suffix}': sizes._replace(num_registers=registers)
    for suffix, registers in (('', 0), ('_reg', REGISTERS))
    for letter, sizes in _SIZES.items()
}
"""Sizes of the published towers by DINOv2's own names."""


def resolve_sizes(arch: str | Mapping) -> tuple[str, DINOv2Sizes]:
    """Name and sizes of an architecture.

    Args:
        arch: One of :data:`ARCHS`, or the fields of :class:`DINOv2Sizes` as a dict.

    Returns:
        The name, ``'custom'`` for a dict, and the sizes.

    Raises:
        ValueError: If the name is unknown, a field is missing, unknown, or does not go with another.
    """
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ValueError(f'arch={arch!r} is none of DINOv2: {", ".join(ARCHS)}, or a dict of sizes')
        return arch, ARCHS[arch]
    needed = {'width', 'depth', 'num_heads'}
    if not needed <= set(arch) <= set(DINOv2Sizes._fields):
        raise ValueError(
            f'arch={dict(arch)} of a DINOv2 needs {", ".join(sorted(needed))} and may have '
            f'{", ".join(sorted(set(DINOv2Sizes._fields) - needed))}'
        )
    sizes = DINOv2Sizes(**arch)
    if sizes.num_heads < 1 or sizes.width % sizes.num_heads or sizes.image_size % sizes.patch_size:
        raise ValueError(
            f'arch={dict(arch)}: num_heads must divide width, and patch_size={sizes.patch_size} must divide '
            f'image_size={sizes.image_size}'
        )
    return 'custom', sizes


class PackedSelfAttention(nn.Module):
    """Self-attention with queries, keys and values of one linear layer.

    Args:
        channels: Width C.
        num_heads: Attention heads.

    Shape:
        (B, N, C) -> (B, N, C)
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def extra_repr(self) -> str:
        return f'num_heads={self.num_heads}'  # No weight tells them.

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        queries, keys, values = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(queries, keys, values)
        return self.proj(attended.transpose(1, 2).flatten(2))


class ReadingMlp(nn.Module):
    """Feed-forward network of a block. Of words it reads nothing: they are there for a branch beside it, which gets all
    that it is called with (:func:`~mmetris.models.tuning.places.add_reader`).

    Args:
        channels: Width C.
        hidden_channels: Width between.

    Shape:
        (B, N, C) -> (B, N, C)
    """

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden_channels)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_channels, channels)

    def forward(self, x: Tensor, words: Tensor | None = None, grid_hw: tuple[int, int] | None = None) -> Tensor:
        """(B, N, C) -> (B, N, C); words (B, L, C') and the grid of the patches among x are not read."""
        return self.fc2(self.act(self.fc1(x)))


class LayerScale(nn.Module):
    """A learnt factor for each channel.

    Args:
        channels: Width C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return x * self.gamma


class DINOv2Block(nn.Module):
    """Self-attention and feed-forward network, each normalised before and scaled after.

    Args:
        channels: Width C.
        num_heads: Attention heads.
        hidden_channels: Width inside the feed-forward network.
    """

    def __init__(self, channels: int, num_heads: int, hidden_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=EPS)
        self.attn = PackedSelfAttention(channels, num_heads)
        self.ls1 = LayerScale(channels)
        self.norm2 = nn.LayerNorm(channels, eps=EPS)
        self.mlp = ReadingMlp(channels, hidden_channels)
        self.ls2 = LayerScale(channels)

    def forward(self, x: Tensor, words: Tensor | None = None, grid_hw: tuple[int, int] | None = None) -> Tensor:
        """Tokens (B, N, C), words (B, L, C') or none, and the grid of the patches among the tokens -> (B, N, C)."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x), words, grid_hw))


class _PatchEmbedding(nn.Module):
    """Patches as one convolution, under the name that it has in DINOv2's files."""

    def __init__(self, channels: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, H / patch, W / patch)."""
        return self.proj(images)


class DINOv2Tower(nn.Module):
    """The weights of a DINOv2. Whoever runs it calls the parts one by one; there is no ``forward``.

    Args:
        sizes: Its sizes.
    """

    def __init__(self, sizes: DINOv2Sizes) -> None:
        super().__init__()
        width, positions = sizes.width, (sizes.image_size // sizes.patch_size) ** 2
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + positions, width) * 0.02)
        self.register_tokens = (
            nn.Parameter(torch.randn(1, sizes.num_registers, width) * 0.02) if sizes.num_registers else None
        )
        self.patch_embed = _PatchEmbedding(width, sizes.patch_size)
        hidden = int(width * sizes.mlp_ratio)
        self.blocks = nn.ModuleList(DINOv2Block(width, sizes.num_heads, hidden) for _ in range(sizes.depth))
        self.norm = nn.LayerNorm(width, eps=EPS)
