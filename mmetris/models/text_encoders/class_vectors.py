"""Class names as CLIP's zero-shot classifier has them: a vector for each name in the space of images and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmetris.registry import MODELS
from mmetris.structures import Vocabulary

from .class_text import ClassText, NameStages


@MODELS.register_module()
class ClassVectors(ClassText):
    """CLIP's text encoder with a vocabulary, read to its end: nothing comes between its stages.

    The vector of a name is the mean of the sentence features of its T prompts, each of length 1, made of length 1 again
    (CLIP, Radford et al. 2021, Sec. 3.1.4). :class:`ClassText` averages before the last LayerNorm instead, where a
    Bridger can still add to the names.

    Args:
        vocabulary: Arguments of :meth:`Vocabulary.build`, or a :class:`Vocabulary`.
        num_stages: See :class:`CLIPTextEncoder`. Defaults to 4.
        out_stages: See there. Defaults to None: the last stage alone.
        **kwargs: Other arguments of :class:`CLIPTextEncoder`.
    """

    def __init__(
        self,
        vocabulary: Mapping | Vocabulary,
        num_stages: int = 4,
        out_stages: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        out_stages = (num_stages,) if out_stages is None else out_stages
        super().__init__(vocabulary, num_stages=num_stages, out_stages=out_stages, **kwargs)

    def _encode(self) -> tuple[Tensor, ...]:
        """The vectors (M, C') as the only stage."""
        vectors = torch.cat([F.normalize(self(chunk)[1], dim=-1) for chunk in self.prompt_tokens()])
        return (F.normalize(vectors.unflatten(0, (-1, len(self.vocabulary.templates))).mean(dim=1), dim=-1),)

    def for_names(self, index: Tensor | None = None) -> NameStages:
        """The names as a text of no stages, whose sentence features (B, K, C') are their vectors.

        Args:
            index: (K,) which of the vocabulary's M names, in which order. Defaults to None: all.
        """
        (vectors,) = self.stage_features()
        vectors = vectors if index is None else vectors[index]
        return NameStages((), (vectors,), nn.Identity(), nn.Identity(), self.output_dims)
