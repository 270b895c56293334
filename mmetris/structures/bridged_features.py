"""What the Bridger hands to a decode head: image maps and text features that have already seen each other."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class BridgedFeatures(NamedTuple):
    """Features of B (image, sentence) pairs, row by row (ETRIS, Fig. 2).

    Axes: B pairs, C channels (each field its own), H W grid (each map its own), L tokens. Where the text is a set of K
    class names instead, L is K.

    Attributes:
        maps: Image maps of the stages that take part, first stage first, each ``(B, C_i, H_i, W_i)``.
        words: Word features ``(B, L, C)``.
        sentence: Sentence features ``(B, C')``, or of K class names ``(B, K, C')``.
        padding_mask: Boolean ``(B, L)``, True at padding tokens, which nothing may read. None: no token is padding.
    """

    maps: tuple[Tensor, ...]
    words: Tensor
    sentence: Tensor
    padding_mask: Tensor | None = None
