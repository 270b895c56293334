"""The answer "not in the picture": a small head that gives its probability, and rules for models without one.

Referring expressions of RefCOCO always mean something; those of gRefCOCO (Liu et al., "GRES: Generalized Referring
Expression Segmentation", 2023) may mean nothing in the image, which its models answer by a no-target classifier beside
the mask. A score at or above a threshold empties the mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from mmetris.registry import MODELS
from mmetris.utils.probabilities import check_probability

MASK_RULES = ('peak', 'top', 'area')
TOP_SHARE = 0.01
"""Share of the cells that the rule ``'top'`` averages over."""


class NoTargetRule(NamedTuple):
    """How a model decides that a sentence means nothing in the picture.

    Attributes:
        by: What the no-target score is: ``'head'``, the probability that the :class:`NoTargetHead` gives, or one of
            ``'peak'``, ``'top'``, ``'area'``, see :func:`mask_score`.
        threshold: Scores at or above it empty the mask.
    """

    by: str
    threshold: float


@MODELS.register_module()
class NoTargetHead(BaseModule):
    """Probability that a sentence means nothing in the picture, from the sentence, the fused pixels and the mask.

    ::

        sentence ------------------------------> LayerNorm -+
        fused map --> mean over the picture ---> LayerNorm -+-> Linear, ReLU, Linear --> no-target logit
                  --> mean where the mask is --> LayerNorm -+
        mask logits --> highest logit, mean probability ----+

    "Where the mask is" are weights by the softmax of the mask's logits over the fused map's cells, so they tell the
    likeliest place of the object even where no probability is high. The mask's logits are read and not trained by this
    head; the fused map and all before it are.

    The decode head that it is part of fills in the first two arguments.

    Args:
        map_channels: Width of the fused map.
        sentence_channels: Width of the sentence feature.
        channels: Width between the two linear layers. Defaults to 128.
        threshold: Probability from which on the mask is emptied. Defaults to 0.5.
        loss_weight: Factor of the loss. Defaults to 0.1, which leaves the fused map to the mask, whose loss is a mean
            over pixels and so a small number: with 1 masks were worse (docs/shapes.md).
        no_target_weight: Factor of those samples in the loss that mean nothing, for data where they are rare. Defaults
            to 1.
        init_cfg: Initial weights, see MMEngine. Defaults to None: those of torch's layers.

    Raises:
        ValueError: If ``threshold`` is not between 0 and 1, or a factor is negative.
    """

    def __init__(
        self,
        map_channels: int,
        sentence_channels: int,
        channels: int = 128,
        threshold: float = 0.5,
        loss_weight: float = 0.1,
        no_target_weight: float = 1.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.threshold = check_probability(threshold, 'threshold of the no-target head')
        for name, value in (('loss_weight', loss_weight), ('no_target_weight', no_target_weight)):
            if value < 0:
                raise ValueError(f'{name} of the no-target head must not be negative, but is {value}')
        self.loss_weight, self.no_target_weight = loss_weight, no_target_weight
        self.sentence_norm = nn.LayerNorm(sentence_channels)
        self.picture_norm = nn.LayerNorm(map_channels)
        self.object_norm = nn.LayerNorm(map_channels)
        self.hidden = nn.Linear(sentence_channels + 2 * map_channels + 2, channels)
        self.classifier = nn.Linear(channels, 1)

    def forward(self, fused: Tensor, sentence: Tensor, logits: Tensor) -> Tensor:
        """No-target logits.

        Args:
            fused: (B, map_channels, H, W) map in which pixels have met the words.
            sentence: (B, sentence_channels).
            logits: (B, 1, h, w) of the mask; h and w are multiples of H and W.

        Returns:
            (B,).
        """
        logits = logits.detach().float()
        cells = F.avg_pool2d(logits, logits.shape[-1] // fused.shape[-1]).flatten(1).softmax(1)
        pixels = fused.flatten(2)
        place = (pixels @ cells.to(pixels.dtype).unsqueeze(2)).squeeze(2)
        # About 1 where the mask is sure, as the normalised features are.
        statistics = torch.stack([logits.flatten(1).amax(1) / 10, logits.sigmoid().flatten(1).mean(1)], 1)
        features = [self.sentence_norm(sentence), self.picture_norm(pixels.mean(2)), self.object_norm(place)]
        hidden = self.hidden(torch.cat([*features, statistics.to(features[0].dtype)], 1)).relu()
        return self.classifier(hidden).squeeze(1)

    def loss(self, no_target_logits: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Binary cross-entropy against "the true mask is empty".

        Args:
            no_target_logits: (B,).
            masks: (B, 1, H, W) true masks in {0, 1, 255}. One of 0 and 255 alone does not tell whether the object is
                there, and does not count.

        Returns:
            ``loss_no_target``, the mean over the samples that count, and ``acc_no_target``, the share of right
            decisions in percent, for the log.
        """
        flat = masks.flatten(1).to(no_target_logits.device)
        empty = ~(flat == 1).any(1)
        counted = ~(empty & (flat == 255).any(1))
        target = empty.to(torch.float32)
        weight = torch.where(empty, self.no_target_weight, 1.0) * counted
        losses = F.binary_cross_entropy_with_logits(no_target_logits.float(), target, weight, reduction='sum')
        num_counted = counted.sum().clamp(min=1)
        right = ((no_target_logits.detach().float().sigmoid() >= self.threshold) == empty) & counted
        return dict(
            loss_no_target=self.loss_weight * losses / num_counted, acc_no_target=100.0 * right.sum() / num_counted
        )


def mask_score(by: str, logits: Tensor, mask_threshold: float) -> Tensor:
    """No-target score of a mask, for models that were not trained to give one: 1 less what speaks for an object.

    Args:
        by: What speaks for it. ``'peak'``: the highest probability. ``'top'``: the mean probability of the
            :data:`TOP_SHARE` highest cells. ``'area'``: the share of cells whose probability is above
            ``mask_threshold``.
        logits: (B, 1, h, w), on the grid of the network's output, borders included.
        mask_threshold: Probability above which a cell is in the mask.

    Returns:
        (B,) in 0..1.
    """
    probs = logits.float().sigmoid().flatten(1)
    if by == 'peak':
        return 1 - probs.amax(1)
    if by == 'top':
        return 1 - probs.topk(max(1, round(TOP_SHARE * probs.shape[1])), 1).values.mean(1)
    return 1 - (probs > mask_threshold).float().mean(1)


def read_no_target_rule(cfg: Mapping[str, Any] | bool | None, head: NoTargetHead | None) -> NoTargetRule | None:
    """The rule that ``test_cfg.no_target`` asks for.

    Args:
        cfg: ``dict(by=..., threshold=...)``. ``by`` is ``'head'`` (the default) or one of :data:`MASK_RULES`, which
            need a threshold; that of the head is the head's unless given. None: the head's answer where there is one,
            else nothing is decided. False: nothing is decided.
        head: The model's, if it has one.

    Returns:
        None where nothing is decided.

    Raises:
        ValueError: If there is no such rule, or no head or threshold for it.
    """
    if cfg is False or (cfg is None and head is None):
        return None
    if cfg is not None and not isinstance(cfg, Mapping):
        raise ValueError(f'test_cfg.no_target={cfg!r} must be None, False or dict(by=..., threshold=...)')
    options = dict(cfg or {})
    by = options.pop('by', 'head')
    threshold = options.pop('threshold', None)
    if options:
        raise ValueError(f'test_cfg.no_target has no {", ".join(map(repr, options))}; it takes by and threshold')
    if by not in ('head', *MASK_RULES):
        raise ValueError(f"test_cfg.no_target.by={by!r} must be 'head' or one of {MASK_RULES}")
    if by == 'head' and head is None:
        raise ValueError(
            "test_cfg.no_target asks for a no-target head, which this model has not: give by='peak', 'top' or 'area', "
            'or decode_head.no_target_head in a config that is trained'
        )
    if threshold is None and by == 'head' and head is not None:
        threshold = head.threshold
    if threshold is None:
        raise ValueError(f'test_cfg.no_target.by={by!r} needs a threshold between 0 and 1')
    return NoTargetRule(by, check_probability(threshold, 'test_cfg.no_target.threshold'))
