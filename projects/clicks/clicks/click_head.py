"""A light decoder that corrects a sentence's mask by clicks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from mmetris.models.layers.attention import Attention
from mmetris.registry import MODELS

from .points import NO_CLICK
from .prompt_encoder import PromptEncoder, conv_norm_relu

LIMIT = 6.0
"""Logits of the mask before a click are brought into -6..6, so that no answer is too sure to be corrected."""


class ClickFeatures(NamedTuple):
    """What clicks on B (image, sentence) pairs are decoded from; it does not change from click to click.

    Attributes:
        pixels: (B, c, h, w) of the image alone, on the grid of the logits.
        map: (B, C, H, W) of ETRIS's aligned map.
        sentence: (B, C).
        logits: (B, 1, h, w), the answer to the sentence.
        input_hw: Size of the network's input.
    """

    pixels: Tensor
    map: Tensor
    sentence: Tensor
    logits: Tensor
    input_hw: tuple[int, int]


class TwoWayLayer(BaseModule):
    """Tokens read each other and the map, then the map reads the tokens (as SAM's decoder; residuals and
    normalisation after each step).

    Args:
        channels: Width C.
        num_heads: Heads of each attention.
        ffn_channels: Inner width of the tokens' feed-forward network.
    """

    def __init__(self, channels: int, num_heads: int, ffn_channels: int) -> None:
        super().__init__()
        self.among_tokens = Attention(channels, num_heads, batch_first=True)
        self.tokens_to_cells = Attention(channels, num_heads, batch_first=True)
        self.cells_to_tokens = Attention(channels, num_heads, batch_first=True)
        self.ffn = nn.Sequential(nn.Linear(channels, ffn_channels), nn.ReLU(), nn.Linear(ffn_channels, channels))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(4))

    def forward(
        self, tokens: Tensor, cells: Tensor, token_positions: Tensor, cell_positions: Tensor, is_none: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One layer.

        Args:
            tokens: (B, T, C).
            cells: (B, N, C).
            token_positions: (B, T, C).
            cell_positions: (N, C).
            is_none: (B, T) bool, True at tokens that nobody may read.

        Returns:
            Tokens and cells.
        """
        placed = tokens + token_positions
        tokens = self.norms[0](tokens + self.among_tokens(placed, placed, tokens, is_none)[0])
        read = self.tokens_to_cells(tokens + token_positions, cells + cell_positions, cells)[0]
        tokens = self.norms[1](tokens + read)
        tokens = self.norms[2](tokens + self.ffn(tokens))
        read = self.cells_to_tokens(cells + cell_positions, tokens + token_positions, tokens, is_none)[0]
        return tokens, self.norms[3](cells + read)


@MODELS.register_module()
class ClickHead(BaseModule):
    """Correct the mask of a sentence by clicks.

    ::

        image --> pixels (stride of the logits) -------------------------------------+
        logits before, clicks --> PromptEncoder --> fine map ------------------------+--> two convolutions --+
                                                +-> coarse map -+                    |                       |
        ETRIS's aligned map ---------------------------------> sum --> two-way --> enlarged                  v
        sentence --------------------------------------------> tokens  layers  --> kernel ------------> dot product
        clicks --> PromptEncoder ----------------------------> tokens                                        |
        logits before ----------------------------------------------------------------------------> + <------+

    The correction is zero to begin with. Rows without clicks keep the answer to the sentence, bit by bit.

    Args:
        map_channels: Width of ETRIS's aligned map. The segmentor fills in this and the next.
        sentence_channels: Width of the sentence feature.
        channels: Width C of tokens and map. Defaults to 128.
        fine_channels: Width on the grid of the logits. Defaults to 32.
        num_heads: Heads of each attention. Defaults to 8.
        num_layers: Two-way layers. Defaults to 2, as in SAM.
        click_radius: See :class:`PromptEncoder`. Defaults to 0.02.
        init_cfg: Initial weights, see MMEngine. Defaults to None.
    """

    def __init__(
        self,
        map_channels: int,
        sentence_channels: int,
        channels: int = 128,
        fine_channels: int = 32,
        num_heads: int = 8,
        num_layers: int = 2,
        click_radius: float = 0.02,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.prompt_encoder = PromptEncoder(channels, fine_channels, click_radius)
        self.stem = nn.Sequential(
            conv_norm_relu(3, fine_channels // 2, 2), conv_norm_relu(fine_channels // 2, fine_channels, 2)
        )
        self.map_projection = nn.Sequential(nn.Conv2d(map_channels, channels, 1), nn.GroupNorm(1, channels))
        self.sentence_projection = nn.Sequential(nn.Linear(sentence_channels, channels), nn.LayerNorm(channels))
        self.layers = nn.ModuleList(TwoWayLayer(channels, num_heads, 2 * channels) for _ in range(num_layers))
        self.to_fine = nn.Conv2d(channels, fine_channels, 1)
        self.mix = nn.Sequential(*(conv_norm_relu(fine_channels, fine_channels) for _ in range(2)))
        self.kernel = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, fine_channels + 1))
        nn.init.zeros_(self.kernel[-1].weight)
        nn.init.zeros_(self.kernel[-1].bias)

    def prepare(
        self,
        images: Tensor,
        aligned: Tensor,
        sentence: Tensor,
        logits: Tensor,
        image_index: Tensor | None = None,
        is_wordless: Tensor | None = None,
    ) -> ClickFeatures:
        """All that comes before the first click.

        Args:
            images: (I, 3, H', W'), the network's input.
            aligned: (B, map_channels, H, W), ETRIS's aligned map.
            sentence: (B, sentence_channels).
            logits: (B, 1, h, w), the answer to the sentence.
            image_index: (B,) row of ``images`` that each sentence speaks of. Defaults to None: row b.
            is_wordless: (B,) bool, True where the sentence is empty, and so is the mask before the first click.
                Defaults to None: nowhere.
        """
        pixels = F.interpolate(self.stem(images), logits.shape[-2:], mode='bilinear', align_corners=False)
        if is_wordless is not None:
            logits = torch.where(is_wordless[:, None, None, None], logits.new_full((), -LIMIT), logits)
        return ClickFeatures(
            pixels if image_index is None else pixels[image_index],
            self.map_projection(aligned),
            self.sentence_projection(sentence),
            logits,
            (images.shape[-2], images.shape[-1]),
        )

    def forward(
        self, features: ClickFeatures, points: Tensor, labels: Tensor, previous: Tensor | None = None
    ) -> Tensor:
        """Logits after clicks.

        Args:
            features: Those of B (image, sentence) pairs.
            points: (B, K, 2) in pixels of the input, in any order.
            labels: (B, K): 1, 0, or ``NO_CLICK``.
            previous: (B, 1, h, w), logits that the last of the clicks has seen. Defaults to None: the answer to the
                sentence.

        Returns:
            (B, 1, h, w).
        """
        if not points.shape[1]:
            return features.logits
        previous = (features.logits if previous is None else previous).clamp(-LIMIT, LIMIT)
        grid_hw, map_hw = tuple(previous.shape[-2:]), tuple(features.map.shape[-2:])
        fine, coarse = self.prompt_encoder.maps(points, labels, previous, map_hw, features.input_hw)
        cells = (features.map + coarse).flatten(2).transpose(1, 2)
        cell_positions = self.prompt_encoder.grid_positions(map_hw, features.input_hw)
        said, places = self.prompt_encoder.tokens(points, labels, features.input_hw)
        tokens = torch.cat([features.sentence[:, None], said], 1)
        token_positions = torch.cat([torch.zeros_like(places[:, :1]), places], 1)
        is_none = F.pad(labels == NO_CLICK, (1, 0))  # The sentence is always there.
        for layer in self.layers:
            tokens, cells = layer(tokens, cells, token_positions, cell_positions, is_none)
        enlarged = self.to_fine(cells.transpose(1, 2).unflatten(2, map_hw))
        enlarged = F.interpolate(enlarged, grid_hw, mode='bilinear', align_corners=False)
        mixed = self.mix(enlarged + features.pixels + fine)
        kernel = self.kernel(tokens[:, 0])
        correction = torch.einsum('bchw,bc->bhw', mixed, kernel[:, :-1]) + kernel[:, -1, None, None]
        refined = (previous + correction[:, None]).to(features.logits.dtype)
        return torch.where((labels != NO_CLICK).any(1)[:, None, None, None], refined, features.logits)
