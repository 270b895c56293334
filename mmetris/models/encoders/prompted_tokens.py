"""Learnt tokens in front of a sequence: after its first token ([SOS] of a sentence, the class token of a ViT)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class PromptedTokens:
    """The place in front of an encoder's tokens.

    Args:
        channels: Width C of the tokens there.
    """

    def __init__(self, channels: int) -> None:
        self.channels = channels
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
        first = 1 + self.num_tokens
        self._prompts.append((num_tokens, prompt))
        return first

    def insert(self, tokens: Tensor) -> Tensor:
        """(B, L, C) -> (B, L + P, C)."""
        if not self._prompts:
            return tokens
        added = [prompt().to(tokens.dtype).expand(tokens.shape[0], -1, -1) for _, prompt in self._prompts]
        return torch.cat([tokens[:, :1], *added, tokens[:, 1:]], dim=1)

    def insert_unmasked(self, padding_mask: Tensor) -> Tensor:
        """A mask of the tokens (B, L) -> of all (B, L + P): prompts are no padding."""
        if not self._prompts:
            return padding_mask
        added = padding_mask.new_zeros(padding_mask.shape[0], self.num_tokens)
        return torch.cat([padding_mask[:, :1], added, padding_mask[:, 1:]], dim=1)
