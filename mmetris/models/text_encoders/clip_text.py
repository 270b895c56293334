"""CLIP's text encoder in stages (ETRIS, Sec. 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from open_clip.transformer import TextTransformer
from torch import Tensor

from mmetris.registry import MODELS

from ..backbones.staged import check_out_stages, split_evenly
from ..clip import ArchLike, build_text_tower
from ..clip.encoder import ClipEncoder


@MODELS.register_module()
class CLIPTextEncoder(ClipEncoder):
    """CLIP's text Transformer, its blocks evenly split in N stages (ETRIS, Sec. 3.1).

    Tokens come from :func:`mmetris.tokenize`: [SOS], words, [EOS], then padding. Causal attention keeps every word
    from what follows it, so padding never reaches a word, and any length up to CLIP's own may be used.

    Args:
        arch: Name of the CLIP model, or sizes; the same as the image encoder's.
        num_stages: Number of stages N. Defaults to 4.
        out_stages: Stages (1-based) that take part in the Bridger, as many as the image encoder has. Defaults to
            ``(2, 3, 4)``.
        **kwargs: ``clip_checkpoint``, ``quick_gelu``, ``frozen``, ``tunable_parameters`` of :class:`ClipEncoder`.

    Attributes:
        embed_dims: Width C of the word features.
        output_dims: Width C' of the sentence feature.

    Raises:
        ValueError: If ``out_stages`` does not fit ``num_stages``, or a text has more tokens than CLIP's context.
    """

    part = 'text'
    tower: TextTransformer

    def __init__(
        self, arch: ArchLike = 'ViT-B-16', num_stages: int = 4, out_stages: Sequence[int] = (2, 3, 4), **kwargs
    ) -> None:
        super().__init__(arch, **kwargs)
        self.num_stages = num_stages
        self.out_stages = check_out_stages(out_stages, num_stages)
        self._stages = split_evenly(len(self.tower.transformer.resblocks), num_stages)
        self.embed_dims = self.tower.width
        self.output_dims = self.arch.embed_dim

    def build_tower(self) -> TextTransformer:
        return build_text_tower(self.arch)

    @staticmethod
    def end_position(tokens: Tensor) -> Tensor:
        """Index (B,) of [EOS], which has the highest id of the vocabulary, in tokens (B, L)."""
        return tokens.argmax(dim=-1)

    def padding_mask(self, tokens: Tensor) -> Tensor:
        """Which of the tokens (B, L) are padding, i.e. stand after [EOS]: (B, L), True for padding.

        The id 0 does not tell: CLIP's vocabulary has a word piece with that id.
        """
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        return positions > self.end_position(tokens).unsqueeze(1)

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids (B, L) -> features before stage 1 (B, L, C)."""
        length, limit = tokens.shape[1], self.tower.context_length
        if length > limit:
            raise ValueError(
                f'{length} tokens are more than the {limit} positions of the text encoder {self.arch.name}; '
                f'set context_length (TokenizeExpression) to {limit} or less'
            )
        words = self.tower.token_embedding(tokens)
        return words + self.tower.positional_embedding[:length].to(words.dtype)

    def stage(self, index: int, words: Tensor) -> Tensor:
        """Run stage ``index`` (1-based) on word features (B, L, C)."""
        length = words.shape[1]
        causal_mask = self.tower.attn_mask[:length, :length]
        for block in self._stages[index - 1]:
            words = self.tower.transformer.resblocks[block](words, attn_mask=causal_mask)
        return words

    def tail(self, words: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What follows the last stage.

        Args:
            words: (B, L, C) features after the last stage.
            tokens: (B, L) ids, which tell where the sentences end.

        Returns:
            Word features F_t (B, L, C) after the final LayerNorm, and the sentence feature F_s (B, C'): that of [EOS]
            in CLIP's shared space.
        """
        words = self.tower.ln_final(words)
        end = words[torch.arange(words.shape[0], device=words.device), self.end_position(tokens)]
        return words, end @ self.tower.text_projection

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, L) -> word features (B, L, C) and sentence feature (B, C'), without a Bridger."""
        words = self.embed(tokens)
        for index in range(1, self.num_stages + 1):
            words = self.stage(index, words)
        return self.tail(words, tokens)
