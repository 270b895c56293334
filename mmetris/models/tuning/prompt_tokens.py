"""Learnt tokens in front of a sequence: CoOp's context words, and visual prompts (shallow)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmetris.registry import MODELS

from ..encoders.frozen_encoder import FrozenEncoder
from .base import TuningMethod


@MODELS.register_module()
class PromptTokens(TuningMethod):
    """Tokens that are learnt, after the first token of every sequence.

    In a text encoder they follow [SOS] before positions are added (Zhou et al., "Learning to Prompt for Vision-Language
    Models", 2022: CoOp's unified context): a sentence may then have so many tokens less. In a ViT they follow the class
    token, whose positions and those of the patches stay (Jia et al., "Visual Prompt Tuning", 2022: VPT-shallow).

    Args:
        num_tokens: How many. Defaults to 8, the paper's 4.10 thousand parameters in CLIP's text encoder (Table 2).
        std: Standard deviation of their initial values. Defaults to 0.02, as in CoOp.

    Raises:
        ValueError: If ``num_tokens`` is not positive, or the encoder has no tokens.
    """

    is_prompt = True

    def __init__(self, num_tokens: int = 8, std: float = 0.02, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        if num_tokens < 1:
            raise ValueError(f'num_tokens={num_tokens} of PromptTokens must be positive')
        self.num_tokens, self.std = num_tokens, std
        self.tokens: nn.Parameter | None = None

    def bind(self, encoder: FrozenEncoder) -> None:
        if encoder.prompts is None:
            raise ValueError(f'PromptTokens: {type(encoder).__name__} has no tokens to put prompts in front of')
        self.tokens = nn.Parameter(torch.randn(self.num_tokens, encoder.prompts.channels) * self.std)
        encoder.prompts.add(self.num_tokens, self)

    def forward(self) -> Tensor:
        """The tokens (num_tokens, C)."""
        assert self.tokens is not None  # An encoder binds before it asks.
        return self.tokens
