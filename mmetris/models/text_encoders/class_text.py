"""Class names as the text side of the Bridger: for each name the residual stream of its [EOS], stage by stage.

A sentence enters the Bridger as its L tokens; K class names would be K sentences. The *joint* text is one "sentence"
of K rows instead: row k is what CLIP's text encoder holds at the [EOS] of name k. With E_i that feature after stage i,

    embed: x_0 = E_0      stage i: x_i = x_{i-1} + (E_i - E_{i-1})      tail: ln_final(x_N), ln_final(x_N) @ projection

so the Bridger's updates are added to the stream and stay in it; what the frozen blocks would answer to them is left out
(first order). Hence all E_i can be computed once, the cost hardly depends on K, and without updates x_N is exactly
CLIP's own feature of the name. Axes: K rows chosen of M names, T templates, N stages, C width, C' sentence width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmetris.registry import MODELS
from mmetris.structures import Vocabulary
from mmetris.utils.tensor_memo import TensorMemo

from ..encoders import StagedTextEncoder
from ..layers.shortcut import is_unaltered, structure_of
from .clip_text import CLIPTextEncoder

PROMPTS_AT_ONCE = 256


class NameStages(StagedTextEncoder):
    """K class names under the contract by which the Bridger walks a text encoder's stages.

    Args:
        out_stages: Stages that take part in the Bridger.
        features: E_0 to E_N, each (K, C).
        final_norm: CLIP's last LayerNorm.
        project: Brings features (..., C) to CLIP's shared space, (..., C').
        output_dims: That width, C'.
    """

    def __init__(
        self,
        out_stages: tuple[int, ...],
        features: Sequence[Tensor],
        final_norm: nn.Module,
        project: Callable[[Tensor], Tensor],
        output_dims: int,
    ) -> None:
        self.num_stages, self.out_stages = len(features) - 1, out_stages
        self.embed_dims, self.output_dims = features[0].shape[-1], output_dims
        self.features = features
        self.final_norm, self.project = final_norm, project

    def ids(self, batch_size: int) -> Tensor:
        """What stands for tokens: all K rows for each of B images, (B, K)."""
        first = self.features[0]
        return torch.arange(len(first), device=first.device).expand(batch_size, -1)

    def padding_mask(self, tokens: Tensor) -> Tensor:
        """(B, K) False: a name is no padding."""
        return torch.zeros_like(tokens, dtype=torch.bool)

    def embed(self, tokens: Tensor) -> Tensor:
        """Ids (B, K) -> (B, K, C) before stage 1."""
        return self.features[0][tokens]

    def stage(self, index: int, words: Tensor) -> Tensor:
        """Add to (B, K, C), whose rows are those of :meth:`ids`, what stage ``index`` (1-based) adds in CLIP."""
        return words + (self.features[index] - self.features[index - 1])

    def tail(self, words: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, C) after the last stage -> words (B, K, C) and sentence features (B, K, C')."""
        words = self.final_norm(words)
        return words, self.project(words)


@MODELS.register_module()
class ClassText(CLIPTextEncoder):
    """CLIP's text encoder with a vocabulary of class names; it has the same weights under the same keys.

    Args:
        vocabulary: Arguments of :meth:`Vocabulary.build`, or a :class:`Vocabulary`.
        **kwargs: Arguments of :class:`CLIPTextEncoder`.
    """

    def __init__(self, vocabulary: Mapping | Vocabulary, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._features = TensorMemo()
        self.set_vocabulary(vocabulary)

    def set_vocabulary(self, vocabulary: Mapping | Vocabulary) -> None:
        """Look for other classes from now on; nothing is trained anew.

        Raises:
            ValueError: If it is no vocabulary, see :meth:`Vocabulary.build`.
        """
        self.vocabulary = vocabulary if isinstance(vocabulary, Vocabulary) else Vocabulary.build(**vocabulary)

    def stage_features(self) -> tuple[Tensor, ...]:
        """E_0 to E_N, each (M, C): features of [EOS] before stage 1 and after each stage, mean over the templates.

        A frozen encoder computes them once for a vocabulary and keeps them, outside of the state dict. They are
        computed at every call, with gradients, where something is tuned (in evaluation too: moving averages are put
        onto a model in ways that leave no trace), and at every call where hooks are on the encoder, which may do
        another thing each time.
        """
        self.ensure_pretrained()
        parameters = list(self.parameters())
        if not is_unaltered(self) or any(parameter.requires_grad for parameter in parameters):
            return self._encode()
        return self._features.get((self.vocabulary, structure_of(self)), parameters, self._encode_precisely)

    def _encode_precisely(self) -> tuple[Tensor, ...]:
        """In full precision whatever surrounds the call: others will read the result later."""
        with torch.autocast(self.tower.positional_embedding.device.type, enabled=False):
            return self._encode()

    def _encode(self) -> tuple[Tensor, ...]:
        """E_0 to E_N of the vocabulary; prompts in chunks, since a set of templates makes thousands of them."""
        chunks = [self._end_features(chunk) for chunk in self.prompt_tokens()]
        num_templates = len(self.vocabulary.templates)
        return tuple(torch.cat(parts).unflatten(0, (-1, num_templates)).mean(dim=1) for parts in zip(*chunks))

    def prompt_tokens(self) -> tuple[Tensor, ...]:
        """Tokens (P, L) of the vocabulary's prompts, cut into chunks of :data:`PROMPTS_AT_ONCE`."""
        tokens = self.trim(self.tokenizer(self.vocabulary.prompts, self.context_length))
        return tokens.to(self.tower.positional_embedding.device).split(PROMPTS_AT_ONCE)

    def _end_features(self, tokens: Tensor) -> list[Tensor]:
        """Tokens (P, L) -> features of [EOS] (P, C), N + 1 of them."""
        words = self.embed(tokens)
        features = [self.pick_end(words, tokens)]
        for index in range(1, self.num_stages + 1):
            words = self.stage(index, words)
            features.append(self.pick_end(words, tokens))
        return features

    def for_names(self, index: Tensor | None = None) -> NameStages:
        """The names as a text that the Bridger can walk.

        Args:
            index: (K,) which of the vocabulary's M names, in which order. Defaults to None: all.
        """
        features = self.stage_features()
        if index is not None:
            features = tuple(feature[index] for feature in features)
        return NameStages(self.out_stages, features, self.tower.ln_final, self.project, self.output_dims)
