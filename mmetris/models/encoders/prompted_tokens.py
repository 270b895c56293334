"""Learnt tokens in front of a sequence: after its first token ([SOS] of a sentence, the class token of a ViT), or first
of all where the sequence has no such token."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class PromptedTokens:
    """The place in front of an encoder's tokens.

    Args:
        channels: Width C of the tokens there.
        start: How many tokens stand before them, S. Defaults to 1.
    """

    def __init__(self, channels: int, start: int = 1) -> None:
        self.channels, self.start = channels, start
        self._prompts: list[tuple[int, Callable[[], Tensor]]] = []

    @property
    def num_tokens(self) -> int:
        """P, how many tokens are added to each sequence."""
        return sum(num_tokens for num_tokens, _ in self._prompts)

    @property
    def sources(self) -> list[Callable[[], Tensor]]:
        """What gives the tokens, in their order."""
        return [prompt for _, prompt in self._prompts]

    def add(self, num_tokens: int, prompt: Callable[[], Tensor]) -> int:
        """Add tokens behind those that were added before.

        Args:
            num_tokens: How many.
            prompt: Gives them: (num_tokens, C). If it is a module, it must be held, and saved, by somebody else.

        Returns:
            Position of the first of them in every sequence.
        """
        first = self.start + self.num_tokens
        self._prompts.append((num_tokens, prompt))
        return first

    def insert(self, tokens: Tensor) -> Tensor:
        """(B, L, C) -> (B, L + P, C)."""
        if not self._prompts:
            return tokens
        added = [prompt().to(tokens.dtype).expand(tokens.shape[0], -1, -1) for _, prompt in self._prompts]
        return torch.cat([tokens[:, : self.start], *added, tokens[:, self.start :]], dim=1)

    def remove(self, tokens: Tensor) -> Tensor:
        """(B, L + P, C) -> (B, L, C): the inverse of :meth:`insert`."""
        if not self._prompts:
            return tokens
        return torch.cat([tokens[:, : self.start], tokens[:, self.start + self.num_tokens :]], dim=1)

    def insert_unmasked(self, padding_mask: Tensor) -> Tensor:
        """A mask of the tokens (B, L) -> of all (B, L + P): prompts are no padding."""
        if not self._prompts:
            return padding_mask
        added = padding_mask.new_zeros(padding_mask.shape[0], self.num_tokens)
        return torch.cat([padding_mask[:, : self.start], added, padding_mask[:, self.start :]], dim=1)
