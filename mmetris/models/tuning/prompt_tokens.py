"""Learnt tokens in front of a sequence: CoOp's context words, and visual prompts, shallow and deep."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from mmetris.registry import MODELS

from ..encoders.frozen_encoder import FrozenEncoder
from .base import TuningMethod
from .places import exchange_tokens, places_of

# A sentence of fewer tokens has no word between [SOS] and [EOS].
SHORTEST_SENTENCE = 3


@MODELS.register_module()
class PromptTokens(TuningMethod):
    """Tokens that are learnt, after the first token of every sequence.

    In a text encoder they follow [SOS] before positions are added (Zhou et al., "Learning to Prompt for Vision-Language
    Models", 2022: CoOp's unified context): a sentence may then have so many tokens less. In a ViT they follow the class
    token, whose positions and those of the patches stay (Jia et al., "Visual Prompt Tuning", 2022: VPT-shallow). With
    ``deep`` each further block gets tokens of its own in their place (VPT-deep).

    Args:
        num_tokens: How many, P. Defaults to 8, the paper's 4.10 thousand parameters in CLIP's text encoder (Table 2).
        std: Standard deviation of their initial values. Defaults to 0.02, as in CoOp.
        deep: Whether every block has tokens of its own. Defaults to False.

    Raises:
        ValueError: If ``num_tokens`` is not positive, the encoder has no tokens or rotary positions (EVA-02), or a
            text encoder would have no position left for a word.
    """

    is_prompt = True
    told = ('deep',)

    def __init__(
        self, num_tokens: int = 8, std: float = 0.02, deep: bool = False, init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg)
        if num_tokens < 1:
            raise ValueError(f'num_tokens={num_tokens} of PromptTokens must be positive')
        self.num_tokens, self.std, self.deep = num_tokens, std, deep
        self.tokens: nn.Parameter | None = None

    def bind(self, encoder: FrozenEncoder) -> None:
        if encoder.prompts is None:
            raise ValueError(f'PromptTokens: {type(encoder).__name__} ({encoder.architecture}) {encoder.no_prompts}')
        first = encoder.prompts.add(self.num_tokens, self)
        longest = getattr(encoder, 'context_length', None)
        if longest is not None and longest < SHORTEST_SENTENCE:
            raise ValueError(
                f'num_tokens={self.num_tokens} of PromptTokens leaves no room for a sentence in the '
                f'{longest + self.num_tokens} positions of the {encoder.architecture}'
            )
        channels = encoder.prompts.channels
        if not self.deep:
            self.tokens = nn.Parameter(torch.randn(self.num_tokens, channels) * self.std)
            return
        blocks = places_of(encoder, 'block')
        self.tokens = nn.Parameter(torch.randn(len(blocks), self.num_tokens, channels) * self.std)
        for index, place in enumerate(blocks[1:], start=1):
            exchange_tokens(place.start, first, partial(self.of_block, index))

    def forward(self) -> Tensor:
        """The tokens (P, C) that go into the first block."""
        return self.of_block(0)

    def of_block(self, index: int) -> Tensor:
        """The tokens (P, C) that go into a block.

        Args:
            index: The block, 0-based; without ``deep`` there is only the first.
        """
        assert self.tokens is not None  # An encoder binds before it asks.
        return self.tokens[index] if self.deep else self.tokens
