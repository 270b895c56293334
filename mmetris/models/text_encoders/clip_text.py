"""CLIP's text encoder in stages (ETRIS, Sec. 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from mmetris.registry import MODELS
from mmetris.utils.tokenizer import Tokenizer

from ..clip import ArchLike, DualEncoder
from ..clip.encoder import TRANSFORMER_PASSED_BY, ClipEncoder, clip_transformer_roles
from ..encoders import StagedTextEncoder
from ..encoders.prompted_tokens import PromptedTokens
from ..encoders.staged import check_out_stages, split_evenly


@MODELS.register_module()
class CLIPTextEncoder(StagedTextEncoder, ClipEncoder):
    """CLIP's text Transformer, its blocks evenly split in N stages (ETRIS, Sec. 3.1).

    Tokens come from :attr:`tokenizer`, for CLIP :func:`mmetris.tokenize`: [SOS], words, [EOS], then padding. Causal
    attention keeps every word from what follows it, so padding never reaches a word, and any length up to CLIP's own
    may be used. Text towers that read in both directions, or end at the last position, were trained with one length.

    Args:
        arch: Name of the CLIP model, or sizes; the same as the image encoder's.
        num_stages: Number of stages N. Defaults to 4.
        out_stages: Stages (1-based) that take part in the Bridger, as many as the image encoder has. Defaults to
            None: the last three.
        tokenizer: Folder of the tokenizer's files, or one of them, for an architecture whose tokenizer is one of
            Hugging Face's or SentencePiece's. Defaults to None: where Hugging Face keeps them on this machine.
        **kwargs: ``clip_checkpoint``, ``quick_gelu``, ``frozen``, ``tunable_parameters``, ``tuning`` of
            :class:`ClipEncoder`.

    Attributes:
        embed_dims: Width C of the word features.
        output_dims: Width C' of the sentence feature.
        tokenizer: What turns sentences into tokens.
        any_length: Whether features do not depend on the length that sentences are padded to.

    Raises:
        ValueError: If ``arch`` has no text encoder in stages or its tokenizer is not on this machine, ``out_stages``
            does not fit ``num_stages``, a text has more tokens than CLIP's context, or not exactly as many where that
            matters.
    """

    part = 'text'
    passed_by = TRANSFORMER_PASSED_BY
    shared_arguments = (*ClipEncoder.shared_arguments, 'num_stages', 'tokenizer')
    tower: TextTransformer
    prompts: PromptedTokens
    tokenizer: Tokenizer

    def __init__(
        self,
        arch: ArchLike = 'ViT-B-16',
        num_stages: int = 4,
        out_stages: Sequence[int] | None = None,
        clip_checkpoint: str | None = None,
        quick_gelu: bool | None = None,
        tokenizer: str | None = None,
        **kwargs: Any,
    ) -> None:
        clip = DualEncoder.describe(arch, clip_checkpoint, quick_gelu, tokenizer=tokenizer)
        tower = clip.build_text_tower()
        self.roles = clip_transformer_roles(tower.transformer)
        super().__init__(clip, tower, token_channels=tower.width, **kwargs)
        self.num_stages = num_stages
        self.out_stages = check_out_stages(out_stages, num_stages)
        self._stages = split_evenly(len(self.tower.transformer.resblocks), num_stages)
        self.embed_dims = self.tower.width
        self.output_dims = self.embed_dims if self.tower.text_projection is None else self.arch.embed_dim
        # On the meta device there is nothing to ask: the model is built to be counted.
        on_meta = self.tower.token_embedding.weight.is_meta
        self.tokenizer = self.arch.tokenizer if on_meta else self.arch.available_tokenizer()
        self.any_length = self.tower.attn_mask is not None and self.tower.pool_type != 'last'

    @property
    def context_length(self) -> int:  # type: ignore[override]  # The contract's is only read, too.
        """Most tokens that a sentence can have, prompts not counted."""
        return self.tower.context_length - self.prompts.num_tokens

    def end_position(self, tokens: Tensor) -> Tensor:
        """Index (B,) of the token whose feature is the sentence's, in tokens (B, L).

        For CLIP that of [EOS], which has the highest id of the vocabulary.
        """
        pool_type = self.tower.pool_type
        if pool_type == 'argmax':
            return tokens.argmax(dim=-1)
        if pool_type == 'eos':
            return (tokens == self.tower.eos_id).int().argmax(dim=-1)
        return tokens.new_full(tokens.shape[:1], tokens.shape[1] - 1 if pool_type == 'last' else 0)

    def pick_end(self, words: Tensor, tokens: Tensor) -> Tensor:
        """Features (B, C) at :meth:`end_position`, of words (B, L', C) that were made of tokens (B, L)."""
        rows = torch.arange(words.shape[0], device=words.device)
        end = self.end_position(tokens)
        # Prompts stand behind the first token.
        return words[rows, end if self.tower.pool_type == 'first' else end + self.prompts.num_tokens]

    def _is_padding(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        if self.tower.pool_type in ('argmax', 'eos'):
            last = self.end_position(tokens)
        else:
            last = (positions * (tokens != self.tokenizer.pad)).amax(dim=1)
        return positions > last.unsqueeze(1)

    def padding_mask(self, tokens: Tensor) -> Tensor:
        """Which of the words that :meth:`embed` makes of tokens (B, L) are padding: (B, L'), True for padding.

        Where [EOS] is found it tells, since padding stands after it. The id 0 would not: CLIP's vocabulary has a word
        piece with that id. Elsewhere padding is what follows the last token that has another id.
        """
        return self.prompts.insert_unmasked(self._is_padding(tokens))

    def trim(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L) without the padding that all of them have and no feature depends on."""
        if not self.any_length:
            return tokens
        return tokens[:, : int((~self._is_padding(tokens)).sum(dim=1).max())]

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids (B, L) -> features before stage 1 (B, L', C); L' is L and the number of prompts.

        Raises:
            ValueError: If there are more tokens than CLIP has positions for, or less where the length matters.
        """
        self.ensure_pretrained()
        if tokens.shape[1] > self.context_length:
            beside = f', beside {self.prompts.num_tokens} learnt ones' if self.prompts.num_tokens else ''
            raise ValueError(
                f'{tokens.shape[1]} tokens are more than the {self.context_length} positions of the text encoder '
                f'{self.arch.name}{beside}; set context_length (TokenizeExpression) to {self.context_length} or less'
            )
        if tokens.shape[1] < self.context_length and not self.any_length:
            raise ValueError(
                f'the features of the text encoder {self.arch.name} depend on the length that sentences are padded to; '
                f'set context_length (TokenizeExpression) to {self.context_length}, not {tokens.shape[1]}'
            )
        words = self.prompts.insert(self.tower.token_embedding(tokens))
        return words + self.tower.positional_embedding[: words.shape[1]].to(words.dtype)

    def stage(self, index: int, words: Tensor) -> Tensor:
        """Run stage ``index`` (1-based) on word features (B, L, C)."""
        length = words.shape[1]
        causal_mask = None if self.tower.attn_mask is None else self.tower.attn_mask[:length, :length]
        for block in self._stages[index - 1]:
            # By position: MMEngine's activation checkpointing hands on no keywords.
            words = self.tower.transformer.resblocks[block](words, None, None, causal_mask)
        return words

    def tail(self, words: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What follows the last stage.

        Args:
            words: (B, L, C) features after the last stage.
            tokens: (B, L) ids, which tell where the sentences end.

        Returns:
            Word features F_t (B, L, C) after the final LayerNorm, and the sentence feature F_s (B, C'): that of
            :meth:`end_position` in CLIP's shared space.
        """
        words = self.tower.ln_final(words)
        return words, self.project(self.pick_end(words, tokens))

    def project(self, features: Tensor) -> Tensor:
        """Features (..., C) after the final LayerNorm -> (..., C') in CLIP's shared space."""
        projection = self.tower.text_projection
        if projection is None:
            return features
        return projection(features) if isinstance(projection, nn.Module) else features @ projection
