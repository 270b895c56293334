"""From clicks and the mask before them to features: where points are, what they say, and what is to be corrected."""

from __future__ import annotations

import math

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from mmetris.models.layers.conv_norm import ConvNormReLU

from .points import NEGATIVE, POSITIVE


def conv_norm_relu(in_channels: int, out_channels: int, stride: int = 1) -> ConvNormReLU:
    """A 3x3 convolution, normalised over each sample: statistics of a batch would differ from click to click."""
    conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
    return ConvNormReLU(conv, dict(type='GN', num_groups=1))


class PromptEncoder(BaseModule):
    """Clicks as tokens, and clicks with the logits before them as a map (after Kirillov et al., "Segment Anything",
    2023, Sec. 3 and A; the map of clicks after Sofiiuk et al. 2021).

    A token is the random Fourier feature of its place (Tancik et al. 2020) and a learned embedding of its label; it has
    no number, so that the order of clicks means nothing. Tokens meet the picture on the coarse grid of the decoder. On
    the fine grid of the logits each click is a bump, ``exp(-distance² / (2 radius²))``, of which the highest counts.

    Args:
        channels: Width C of tokens and coarse map.
        fine_channels: Width of the fine map.
        click_radius: Standard deviation of the bump as a share of the input's longer side. Defaults to 0.02.
        position_scale: Standard deviation of the random frequencies, in periods over half of the input. Defaults to 1,
            as in SAM.

    Raises:
        ValueError: If ``channels`` is odd.
    """

    frequencies: Tensor

    def __init__(
        self, channels: int, fine_channels: int, click_radius: float = 0.02, position_scale: float = 1.0
    ) -> None:
        super().__init__()
        if channels % 2:
            raise ValueError(f'channels must be even, a sine and a cosine for each frequency, but it is {channels}')
        self.click_radius = click_radius
        # A buffer, since a checkpoint is worth nothing with other frequencies.
        self.register_buffer('frequencies', position_scale * torch.randn(2, channels // 2))
        self.label_embedding = nn.Embedding(2, channels)
        self.fine = conv_norm_relu(3, fine_channels)
        self.coarse = nn.Conv2d(fine_channels, channels, 3, padding=1)

    def positions(self, points: Tensor, input_hw: tuple[int, int]) -> Tensor:
        """Fourier features of places.

        Args:
            points: (..., 2), x and y in pixels of the input.
            input_hw: Size of the input.

        Returns:
            (..., C).
        """
        height, width = input_hw
        share = 2 * points / points.new_tensor([width, height]) - 1
        angles = 2 * math.pi * share @ self.frequencies
        return torch.cat([angles.sin(), angles.cos()], -1)

    def grid_positions(self, grid_hw: tuple[int, int], input_hw: tuple[int, int]) -> Tensor:
        """Fourier features (H * W, C) of the cells of a map."""
        return self.positions(places_of(grid_hw, input_hw, self.frequencies.device).flatten(0, 1), input_hw)

    def tokens(self, points: Tensor, labels: Tensor, input_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """What clicks say, and where.

        Args:
            points: (B, K, 2) in pixels of the input.
            labels: (B, K).
            input_hw: Size of the input.

        Returns:
            (B, K, C) embeddings of the labels, and (B, K, C) of the places.
        """
        return self.label_embedding(labels.clamp(min=0)), self.positions(points, input_hw)

    def maps(
        self,
        points: Tensor,
        labels: Tensor,
        previous: Tensor,
        map_hw: tuple[int, int],
        input_hw: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        """Clicks and the logits before them as maps.

        Args:
            points: (B, K, 2) in pixels of the input.
            labels: (B, K).
            previous: (B, 1, h, w).
            map_hw: Size of the coarse map.
            input_hw: Size of the input.

        Returns:
            The fine map (B, fine_channels, h, w), and the coarse one (B, C, H, W).
        """
        bumps = self.bumps(points, labels, (previous.shape[-2], previous.shape[-1]), input_hw)
        fine = self.fine(torch.cat([previous.sigmoid(), bumps], 1))
        return fine, self.coarse(F.adaptive_avg_pool2d(fine, map_hw))

    def bumps(self, points: Tensor, labels: Tensor, grid_hw: tuple[int, int], input_hw: tuple[int, int]) -> Tensor:
        """(B, 2, h, w): in 0..1, how near the nearest positive and the nearest negative click is."""
        places = places_of(grid_hw, input_hw, points.device)
        squares = (places - points[:, :, None, None]).square().sum(-1)
        near = torch.exp(-squares / (2 * (self.click_radius * max(input_hw)) ** 2))
        kinds = [near * (labels == label)[..., None, None] for label in (POSITIVE, NEGATIVE)]
        return torch.stack([kind.amax(1) for kind in kinds], 1)


def places_of(grid_hw: tuple[int, int], input_hw: tuple[int, int], device: torch.device) -> Tensor:
    """The pixel (h, w, 2), as x and y, that each cell of a map speaks of: cell i of pixel ``i * stride``, the rule of
    :func:`~mmetris.models.decode_heads.mask_prediction.at_input_size`."""
    rows, columns = (torch.arange(cells, device=device) * (size / cells) for cells, size in zip(grid_hw, input_hw))
    return torch.stack(torch.meshgrid(rows, columns, indexing='ij')[::-1], -1)
