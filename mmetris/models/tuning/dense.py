"""Dense adapters: convolutions of several sizes in a bottleneck, each reading all before it (DETRIS, AAAI 2025).

    x -> Linear C -> d -> ReLU -> h -+-> tokens that come first -----------------------------+-> (+) -> Linear d -> C
                                     |                                                       |    |
                                     +-> the others: dense convolutions [-> read the words] -+    h

Axes: B images or sentences, N tokens, C the tower's width, d the bottleneck's, L words, H W the grid of the patches.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmetris.registry import MODELS

from ..encoders.frozen_encoder import FrozenEncoder
from ..layers.attention import Attention
from .base import TuningMethod
from .places import add_parallel, add_reader, places_of

NORM_EPS = 1e-3  # Of the BatchNorms in the published code.
# Narrowest bottleneck of which every branch gets a channel.
NARROWEST = 16


class ConvUnit(nn.Sequential):
    """A convolution with bias that keeps the size, BatchNorm, ReLU.

    Args:
        in_channels: Width of the input.
        out_channels: Width of the output.
        kernel_size: Odd side of the kernel.
        dims: 1 for sequences (B, C, N), 2 for maps (B, C, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, dims: int) -> None:
        conv, norm = ((nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d))[dims - 1]
        super().__init__(
            OrderedDict(
                conv=conv(in_channels, out_channels, kernel_size, padding=kernel_size // 2),
                norm=norm(out_channels, eps=NORM_EPS),
                relu=nn.ReLU(inplace=True),
            )
        )


class DenseConvs(nn.Module):
    """Three branches of kernels 1, 3 and 5, each reading the input and the branches before it.

    Args:
        channels: Width d, a multiple of 16. The branches have d / 2, d / 4 and d / 4 of the output's channels.
        dims: 1 for sequences, 2 for maps.

    Shape:
        (B, d, N) -> (B, d, N), or (B, d, H, W) -> (B, d, H, W)
    """

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        half, quarter, narrow = channels // 2, channels // 4, channels // NARROWEST
        self.first = ConvUnit(channels, half, 1, dims)
        self.second = nn.Sequential(ConvUnit(channels + half, narrow, 1, dims), ConvUnit(narrow, quarter, 3, dims))
        self.third = nn.Sequential(
            ConvUnit(channels + half + quarter, narrow, 1, dims), ConvUnit(narrow, quarter, 5, dims)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Same shape in and out."""
        first = self.first(x)
        second = self.second(torch.cat([x, first], dim=1))
        third = self.third(torch.cat([x, first, second], dim=1))
        return torch.cat([first, second, third], dim=1)


class WordAttention(nn.Module):
    """What patches find in the words takes their place. Padding is read like words.

    Args:
        channels: Width d of the patches.
        word_channels: Width of the words.
        align_dims: Width of the attention.
        num_heads: Its heads.
        dropout: Of its weights.

    Shape:
        (B, N, d), words (B, L, word_channels) -> (B, N, d)
    """

    def __init__(self, channels: int, word_channels: int, align_dims: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.patches_in = nn.Linear(channels, align_dims)
        self.words_in = nn.Linear(word_channels, align_dims)
        self.attention = Attention(align_dims, num_heads, dropout, batch_first=True)
        self.patches_out = nn.Linear(align_dims, channels)

    def forward(self, patches: Tensor, words: Tensor) -> Tensor:
        """See above."""
        words = self.words_in(words)
        return self.patches_out(self.attention(self.patches_in(patches), words, words, need_weights=False)[0])


class DenseBranch(nn.Module):
    """The network at one place, without its words.

    Args:
        tower_channels: Width C of the tower's tokens.
        channels: Width d of the bottleneck.
        dims: 1 where the tokens are a sequence, 2 where they are a map.
        scale: Factor of the result.
    """

    def __init__(self, tower_channels: int, channels: int, dims: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.down = nn.Linear(tower_channels, channels)
        self.convs = DenseConvs(channels, dims)
        self.up = nn.Linear(channels, tower_channels)

    def reset(self) -> DenseBranch:
        """Initial weights of the published code: every linear layer and convolution by Kaiming, for ReLU."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
                nn.init.kaiming_normal_(module.weight, nonlinearity='relu')
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        return self


class SequenceBranch(DenseBranch):
    """Of a sequence; its first token goes past the convolutions.

    Args:
        tower_channels, channels, scale: See :class:`DenseBranch`.

    Shape:
        (B, N, C) -> (B, N, C)
    """

    def __init__(self, tower_channels: int, channels: int, scale: float) -> None:
        super().__init__(tower_channels, channels, 1, scale)
        self.reset()

    def forward(self, x: Tensor) -> Tensor:
        """See above."""
        hidden = self.down(x).relu()
        others = self.convs(hidden[:, 1:].transpose(1, 2)).transpose(1, 2)
        return self.scale * self.up(torch.cat([hidden[:, :1], others], dim=1) + hidden)


class ReadingBranch(DenseBranch):
    """Of patches and the tokens before them; the patches read words, the others go past.

    Args:
        tower_channels, channels, scale: See :class:`DenseBranch`.
        words: The attention to the words.

    Shape:
        (B, N, C), words (B, L, C'), grid (H, W) -> (B, N, C); the last H * W of the N tokens are the patches.
    """

    def __init__(self, tower_channels: int, channels: int, scale: float, words: WordAttention) -> None:
        super().__init__(tower_channels, channels, 2, scale)
        self.words = words
        self.reset()

    def forward(self, x: Tensor, words: Tensor | None, grid_hw: tuple[int, int]) -> Tensor:
        """See above.

        Raises:
            ValueError: If there are no words.
        """
        if words is None:
            raise ValueError(
                'DenseAligner reads words, and none were handed to the image encoder: the model needs '
                "neck=dict(type='TextFirst'), or dict(type='TextFirstBridger')"
            )
        hidden = self.down(x).relu()
        num_before = hidden.shape[1] - grid_hw[0] * grid_hw[1]
        before, patches = hidden[:, :num_before], hidden[:, num_before:]
        convolved = self.convs(patches.transpose(1, 2).unflatten(2, grid_hw)).flatten(2).transpose(1, 2)
        return self.scale * self.up(torch.cat([before, self.words(convolved + patches, words)], dim=1) + hidden)


class DenseMethod(TuningMethod):
    """Base of methods that put one dense network in some blocks of a Transformer.

    Args:
        channels: Width d of the bottlenecks, a multiple of 16.
        layers: The blocks, from 0. None: every second one, 1, 3, 5 and so on.
        scale: Factor of what is added.

    Raises:
        ValueError: If d is no multiple of 16, or the encoder has no such blocks.
    """

    told: tuple[str, ...] = ('scale',)

    def __init__(self, channels: int, layers: Sequence[int] | None, scale: float, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        if channels < NARROWEST or channels % NARROWEST:
            raise ValueError(f'channels={channels} of {type(self).__name__} must be a multiple of {NARROWEST}')
        self.channels, self.scale = channels, scale
        self.layers = None if layers is None else tuple(layers)
        self.branches = nn.ModuleDict()

    def chosen(self, names: Sequence[str], encoder: FrozenEncoder) -> dict[int, str]:
        """The chosen blocks.

        Args:
            names: Name of each block of the encoder, or of what stands in it.
            encoder: The encoder.

        Returns:
            Number of each chosen block -> its name.
        """
        layers = range(1, len(names), 2) if self.layers is None else self.layers
        if not layers or len(set(layers)) < len(layers) or not all(0 <= layer < len(names) for layer in layers):
            raise ValueError(
                f'layers={self.layers} of {type(self).__name__} must be different numbers of the {len(names)} blocks '
                f'of the {encoder.architecture}, from 0'
            )
        return {layer: names[layer] for layer in sorted(layers)}


@MODELS.register_module()
class DenseAligner(DenseMethod):
    """Dense adapters of an image encoder whose patches read the finished words (DETRIS, AAAI 2025).

    Each stands parallel to the feed-forward network of a block and inside its scale: ``x + ls2(mlp(norm2(x)) + scale *
    A(norm2(x), words))``. For encoders that hand words to their blocks (:class:`DINOv2ViT`), in a model whose neck is
    :class:`TextFirst` or :class:`TextFirstBridger`. It does not start as no change: the published recipe trains it from
    random weights.

    Args:
        channels: Width d of the bottlenecks. Defaults to 128; the published model on mixed data has 384.
        layers: The blocks, from 0. Defaults to None: every second one, 1, 3, 5 and so on.
        word_channels: Width of the words. Defaults to 512, that of CLIP ViT-B/16.
        align_dims: Width of the attention to the words. Defaults to 128.
        num_heads: Its heads. Defaults to 8.
        dropout: Of its weights. Defaults to 0.1.
        scale: Factor of what is added. Defaults to 0.2.

    Raises:
        ValueError: If the encoder hands no words to its blocks, or ``align_dims`` does not divide into heads; see
            :class:`DenseMethod` also.
    """

    told = ('num_heads', 'scale')

    def __init__(
        self,
        channels: int = 128,
        layers: Sequence[int] | None = None,
        word_channels: int = 512,
        align_dims: int = 128,
        num_heads: int = 8,
        dropout: float = 0.1,
        scale: float = 0.2,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(channels, layers, scale, init_cfg)
        if num_heads < 1 or align_dims % num_heads:
            raise ValueError(f'align_dims={align_dims} of DenseAligner must be a multiple of num_heads={num_heads}')
        self.word_channels, self.align_dims = word_channels, align_dims
        self.num_heads, self.dropout = num_heads, dropout

    def bind(self, encoder: FrozenEncoder) -> None:
        if not getattr(encoder, 'hands_words', False):
            raise ValueError(
                f'DenseAligner reads words in the blocks of an image encoder, and {type(encoder).__name__} hands none '
                'to them; DINOv2ViT does'
            )
        for layer, name in self.chosen(encoder.roles['ffn'].names, encoder).items():
            (place,) = places_of(encoder, name)
            words = WordAttention(self.channels, self.word_channels, self.align_dims, self.num_heads, self.dropout)
            branch = ReadingBranch(place.in_channels, self.channels, self.scale, words)
            self.branches[str(layer)] = branch
            add_reader(place.start, branch)


@MODELS.register_module()
class DenseTextAdapter(DenseMethod):
    """Dense adapters of a text encoder of CLIP's (DETRIS, AAAI 2025).

    Each goes from what follows the attention past norm and feed-forward network of a block: ``x + mlp(ln_2(x)) +
    scale * T(x)``. Its convolutions look ahead and across padding, so features depend on the length that sentences are
    padded to: ``context_length`` of the model must say it. It does not start as no change: the published recipe trains
    it from random weights.

    Args:
        channels: Width d of the bottlenecks. Defaults to 64; the published model on mixed data has 384.
        layers: The blocks, from 0. Defaults to None: every second one, 1, 3, 5 and so on.
        scale: Factor of what is added. Defaults to 0.2.

    Raises:
        ValueError: If the blocks have no ``ln_2`` and ``mlp``; see :class:`DenseMethod` also.
    """

    def __init__(
        self,
        channels: int = 64,
        layers: Sequence[int] | None = None,
        scale: float = 0.2,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(channels, layers, scale, init_cfg)

    def bind(self, encoder: FrozenEncoder) -> None:
        if not hasattr(encoder, 'padding_mask'):
            raise ValueError(
                f'DenseTextAdapter is for text, and {type(encoder).__name__} reads images; use DenseAligner'
            )
        names = encoder.roles['block'].names if 'block' in encoder.roles else ()
        for layer, name in self.chosen(names, encoder).items():
            (place,) = places_of(encoder, {f'{name}.ln_2': 'mlp'})
            branch = SequenceBranch(place.in_channels, self.channels, self.scale)
            self.branches[str(layer)] = branch
            add_parallel(place.start, branch, place.end)
