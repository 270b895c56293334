"""CLIP's text encoder in stages (ETRIS, Sec. 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from open_clip.transformer import TextTransformer
from torch import Tensor

from mmetris.registry import MODELS
from mmetris.utils.tokenizer import tokenize

from ..clip import ArchLike, build_text_tower, resolve_arch
from ..clip.encoder import ClipEncoder
from ..encoders import StagedTextEncoder
from ..encoders.staged import check_out_stages, split_evenly


@MODELS.register_module()
class CLIPTextEncoder(StagedTextEncoder, ClipEncoder):
    """CLIP's text Transformer, its blocks evenly split in N stages (ETRIS, Sec. 3.1).

    Tokens come from :func:`mmetris.tokenize`: [SOS], words, [EOS], then padding. Causal attention keeps every word
    from what follows it, so padding never reaches a word, and any length up to CLIP's own may be used.

    Args:
        arch: Name of the CLIP model, or sizes; the same as the image encoder's.
        num_stages: Number of stages N. Defaults to 4.
        out_stages: Stages (1-based) that take part in the Bridger, as many as the image encoder has. Defaults to
            None: the last three.
        **kwargs: ``clip_checkpoint``, ``quick_gelu``, ``frozen``, ``tunable_parameters``, ``tuning`` of
            :class:`ClipEncoder`.

    Attributes:
        embed_dims: Width C of the word features.
        output_dims: Width C' of the sentence feature.

    Raises:
        ValueError: If ``out_stages`` does not fit ``num_stages``, or a text has more tokens than CLIP's context.
    """

    part = 'text'
    shared_arguments = (*ClipEncoder.shared_arguments, 'num_stages')
    tower: TextTransformer

    def __init__(
        self,
        arch: ArchLike = 'ViT-B-16',
        num_stages: int = 4,
        out_stages: Sequence[int] | None = None,
        quick_gelu: bool | None = None,
        **kwargs,
    ) -> None:
        clip = resolve_arch(arch, quick_gelu)
        tower = build_text_tower(clip)
        super().__init__(clip, tower, token_channels=tower.width, **kwargs)
        self.num_stages = num_stages
        self.out_stages = check_out_stages(out_stages, num_stages)
        self._stages = split_evenly(len(self.tower.transformer.resblocks), num_stages)
        self.tokenizer = tokenize
        self.embed_dims = self.tower.width
        self.output_dims = self.arch.embed_dim

    @property
    def context_length(self) -> int:
        """Most tokens that a sentence can have, prompts not counted."""
        return self.tower.context_length - self.prompts.num_tokens

    @staticmethod
    def end_position(tokens: Tensor) -> Tensor:
        """Index (B,) of [EOS], which has the highest id of the vocabulary, in tokens (B, L)."""
        return tokens.argmax(dim=-1)

    def pick_end(self, words: Tensor, tokens: Tensor) -> Tensor:
        """Features (B, C) at [EOS], of words (B, L', C) that were made of tokens (B, L)."""
        rows = torch.arange(words.shape[0], device=words.device)
        return words[rows, self.end_position(tokens) + self.prompts.num_tokens]

    def padding_mask(self, tokens: Tensor) -> Tensor:
        """Which of the tokens (B, L) are padding, i.e. stand after [EOS]: (B, L), True for padding.

        The id 0 does not tell: CLIP's vocabulary has a word piece with that id.
        """
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        return self.prompts.insert_unmasked(positions > self.end_position(tokens).unsqueeze(1))

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids (B, L) -> features before stage 1 (B, L', C); L' is L and the number of prompts.

        Raises:
            ValueError: If there are more tokens than CLIP has positions for.
        """
        self.ensure_pretrained()
        if tokens.shape[1] > self.context_length:
            raise ValueError(
                f'{tokens.shape[1]} tokens are more than the {self.context_length} positions of the text encoder '
                f'{self.arch.name}; set context_length (TokenizeExpression) to {self.context_length} or less'
            )
        words = self.prompts.insert(self.tower.token_embedding(tokens))
        return words + self.tower.positional_embedding[: words.shape[1]].to(words.dtype)

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
        return words, self.pick_end(words, tokens) @ self.tower.text_projection
