"""Attention that keeps CLIP's patches apart: what the last block of its ViT computes where no training is to follow.

CLIP's own softmax(q k^T / s) v mixes what a patch shows into all patches, since only the class token was ever read.
With the queries q, keys k and values v of one head, s = sqrt(width of a head), these are used in its place:

    maskclip    v
    sclip       softmax(q q^T / s) v + softmax(k k^T / s) v
    clearclip   softmax(q q^T / s) v
    naclip      softmax(k k^T / s + g) v,   g(i, j) = exp(-|i - j|^2 / (2 std^2)) between patches i and j, else 0

MaskCLIP: Zhou et al., "Extract Free Dense Labels from CLIP", ECCV 2022. SCLIP: Wang et al., "SCLIP: Rethinking
Self-Attention for Dense Vision-Language Inference", ECCV 2024. ClearCLIP: Lan et al., "ClearCLIP: Decomposing CLIP
Representations for Dense Vision-Language Inference", ECCV 2024. NACLIP: Hajimiri et al., "Pay Attention to Your
Neighbours: Training-Free Open-Vocabulary Semantic Segmentation", WACV 2025.

Axes: B images, N tokens (P before the patches, then H * W patches), c width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# name -> whether the block's residual connection and its feed-forward network are kept, as published
DENSE_ATTENTIONS = dict(maskclip=True, sclip=True, clearclip=False, naclip=False)


def check_dense_attention(name: str) -> str:
    """The name of an attention, if there is such a one.

    Raises:
        ValueError: If it is none of :data:`DENSE_ATTENTIONS`.
    """
    if name not in DENSE_ATTENTIONS:
        raise ValueError(f'attention={name!r} must be one of {", ".join(map(repr, DENSE_ATTENTIONS))}')
    return name


def neighbour_bias(grid_hw: tuple[int, int], std: float, num_before: int = 1) -> Tensor:
    """NACLIP's g: what is added to the scores, so that a patch attends to its neighbours.

    Args:
        grid_hw: Height and width of the grid of patches.
        std: Standard deviation of the Gaussian, in patches.
        num_before: Tokens before the patches, to and from which nothing is added. Defaults to 1.

    Returns:
        (N, N) float32, 1 on the diagonal of the patches.
    """
    height, width = grid_hw
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    places = torch.stack([rows.flatten(), columns.flatten()], dim=1).float()
    squares = (places[:, None] - places[None]).square().sum(dim=2)
    return F.pad(torch.exp(-squares / (2 * std**2)), (num_before, 0, num_before, 0))


def attend_densely(name: str, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """One of the attentions above.

    Args:
        name: Which.
        query: (B, heads, N, c).
        key: (B, heads, N, c).
        value: (B, heads, N, c).
        bias: (N, N) of :func:`neighbour_bias`, for ``'naclip'``. Defaults to None: nothing is added.

    Returns:
        (B, heads, N, c).

    Raises:
        ValueError: If there is no such attention.
    """
    check_dense_attention(name)
    if name == 'maskclip':
        return value
    if name == 'naclip':
        return F.scaled_dot_product_attention(key, key, value, None if bias is None else bias.to(key))
    attended = F.scaled_dot_product_attention(query, query, value)
    return attended + F.scaled_dot_product_attention(key, key, value) if name == 'sclip' else attended
