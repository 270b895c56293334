"""Boxes by a decoding Transformer, as in MDETR, on an FPN that joins the stages (ETRIS, appendix)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmseg.models.necks import FPN
from mmseg.structures import SegDataSample
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_convert, generalized_box_iou

from mmetris.registry import MODELS
from mmetris.structures import BridgedFeatures

from .boxes import Answers, BoxHead, box_losses, complete_by_boxes, input_hw_of, no_rule_of_boxes, target_boxes


@MODELS.register_module()
class TransformerBoxHead(BoxHead):
    """Boxes of a sentence, from queries that read the joined maps and the words.

    ::

        maps --> FPN --> mean, at the middle stride, with places ----+
        words --> Linear -------------------------------------------+-> memory
                                  learnt queries, plus sentence --> decoding Transformer --> boxes, scores

    Frozen encoders with Bridgers, an FPN and a DETR-style decoder are what the paper's appendix tells of its visual
    grounding; the rest is DETR's: the queries are matched with the true boxes one to one by costs of score, L1 and
    GIoU (the Hungarian algorithm), matched ones learn their box and the score 1, others the score 0. With one true box,
    as in RefCOCO, one query is matched; none where a sentence means nothing.

    Args:
        in_channels: Widths of the maps. The model fills in this and the next three.
        in_strides: Strides of the maps in input pixels.
        word_channels: Width of the word features.
        sentence_channels: Width of the sentence feature.
        channels: Width of the Transformer. Defaults to 256, as in DETR.
        num_queries: Queries. Defaults to 10; more than a sentence means objects.
        num_layers: Layers of the Transformer. Defaults to 6, as in DETR.
        num_heads: Heads of its attentions. Defaults to 8.
        ffn_dims: Width of its feed-forward networks. Defaults to 2048.
        dropout: In it. Defaults to 0.1.
        auxiliary: Whether the boxes after each layer are trained, too, as in DETR. Defaults to True.
        score_weight: Factor of the loss of the scores, and of their cost. Defaults to 1.
        l1_weight: Likewise of L1. Defaults to 5.
        giou_weight: Likewise of GIoU. Defaults to 2.
        other_weight: Factor of queries without a box in the loss of the scores. Defaults to 0.1, as in DETR.
        init_cfg: Initial weights, see MMEngine. Defaults to None.

    Raises:
        ValueError: If ``channels`` is no multiple of ``num_heads`` or of 4.
    """

    with_mask = False

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        word_channels: int,
        sentence_channels: int,
        channels: int = 256,
        num_queries: int = 10,
        num_layers: int = 6,
        num_heads: int = 8,
        ffn_dims: int = 2048,
        dropout: float = 0.1,
        auxiliary: bool = True,
        score_weight: float = 1.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        other_weight: float = 0.1,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if channels % num_heads or channels % 4:
            raise ValueError(f'channels={channels} must be a multiple of num_heads={num_heads} and of 4')
        # The map of the middle stride: 16 for ResNet, the patch size for ViT.
        self.level = list(in_strides).index(sorted(in_strides)[len(in_strides) // 2])
        self.fpn = FPN(list(in_channels), channels, num_outs=len(in_channels))
        self.word_projection = nn.Linear(word_channels, channels)
        self.sentence_projection = nn.Linear(sentence_channels, channels)
        self.memory_norm = nn.LayerNorm(channels)
        self.queries = nn.Embedding(num_queries, channels)
        # Which of the memory's entries are words.
        self.kinds = nn.Embedding(2, channels)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(channels, num_heads, ffn_dims, dropout, batch_first=True, norm_first=True)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(channels)
        self.score = nn.Linear(channels, 1)
        self.box = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, 4)
        )
        self.auxiliary = auxiliary
        self.score_weight, self.l1_weight, self.giou_weight = score_weight, l1_weight, giou_weight
        self.other_weight = other_weight

    def forward(self, features: BridgedFeatures) -> tuple[Tensor, Tensor]:
        """Boxes of B (image, sentence) pairs, after each layer.

        Args:
            features: Their bridged features.

        Returns:
            (layers, B, Q, 4) boxes (centre x, centre y, width, height) as shares of the input, and (layers, B, Q)
            logits of their scores.
        """
        joined = self.join(features.maps)
        pixels = joined.flatten(2).transpose(1, 2) + places(*joined.shape[-2:], joined.shape[1]).to(joined)
        words = self.word_projection(features.words)
        memory = self.memory_norm(torch.cat([pixels + self.kinds.weight[0], words + self.kinds.weight[1]], 1))
        padding = features.padding_mask
        if padding is not None:
            padding = torch.cat([padding.new_zeros(pixels.shape[:2]), padding], 1)
        sentence = self.sentence_projection(features.sentence)
        queries = self.queries.weight + sentence.unsqueeze(1)
        boxes, scores = [], []
        for layer in self.layers:
            queries = layer(queries, memory, memory_key_padding_mask=padding)
            answer = self.norm(queries)
            boxes.append(self.box(answer).float().sigmoid())
            scores.append(self.score(answer).squeeze(-1).float())
        return torch.stack(boxes), torch.stack(scores)

    def join(self, maps: Sequence[Tensor]) -> Tensor:
        """One map (B, channels, H, W) of the middle stride: the mean of the FPN's.

        Args:
            maps: Those of the stages.
        """
        found = self.fpn(tuple(maps))
        grid = found[self.level].shape[-2:]
        return torch.stack([F.adaptive_avg_pool2d(one, grid) for one in found]).mean(0)

    def loss(
        self, features: BridgedFeatures, data_samples: Sequence[SegDataSample], train_cfg: dict | None = None
    ) -> dict[str, Tensor]:
        """Losses of B (image, sentence) pairs.

        Args:
            features: Their bridged features.
            data_samples: One for each, with ``gt_instances``.
            train_cfg: Unused.

        Returns:
            ``loss_l1``, ``loss_giou`` and ``loss_score`` of the last layer, and those of the others as ``d0.loss_l1``
            and so on.
        """
        boxes, scores = self(features)
        targets = target_boxes(data_samples, input_hw_of(data_samples), boxes.device)
        losses: dict[str, Tensor] = {}
        last = len(boxes) - 1
        for index in range(last + 1) if self.auxiliary else (last,):
            prefix = '' if index == last else f'd{index}.'
            for name, value in self._layer_losses(boxes[index], scores[index], targets).items():
                losses[prefix + name] = value
        return losses

    def _layer_losses(self, boxes: Tensor, scores: Tensor, targets: Sequence[Tensor]) -> dict[str, Tensor]:
        wanted = torch.zeros_like(scores)
        weights = torch.full_like(scores, self.other_weight)
        found, true = [], []
        for index, target in enumerate(targets):
            rows, columns = self.match(boxes[index], scores[index], target)
            wanted[index, rows] = 1
            weights[index, rows] = 1
            found.append(boxes[index, rows])
            true.append(target[columns])
        distance, overlap = box_losses(torch.cat(found), torch.cat(true))
        score = F.binary_cross_entropy_with_logits(scores, wanted, weights, reduction='sum') / weights.sum()
        return dict(
            loss_l1=self.l1_weight * distance,
            loss_giou=self.giou_weight * overlap,
            loss_score=self.score_weight * score,
        )

    @torch.no_grad()
    def match(self, boxes: Tensor, scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Which query is whose: the pairs of lowest total cost.

        Args:
            boxes: (Q, 4), (centre x, centre y, width, height) as shares.
            scores: (Q,) logits.
            targets: (K, 4) true boxes, likewise.

        Returns:
            Rows of ``boxes`` and of ``targets``, min(Q, K) of each.
        """
        distance = torch.cdist(boxes, targets, p=1)
        overlap = generalized_box_iou(box_convert(boxes, 'cxcywh', 'xyxy'), box_convert(targets, 'cxcywh', 'xyxy'))
        cost = self.l1_weight * distance - self.giou_weight * overlap
        cost = cost - self.score_weight * scores.sigmoid().unsqueeze(1)
        rows, columns = linear_sum_assignment(cost.cpu().numpy())
        return torch.as_tensor(rows, device=boxes.device), torch.as_tensor(columns, device=boxes.device)

    def no_target_rule(self, test_cfg: Mapping[str, Any]) -> None:
        """None: without a mask, the scores of the boxes say that a sentence means nothing.

        Args:
            test_cfg: ``no_target`` of the model.

        Raises:
            ValueError: If it asks for a rule.
        """
        no_rule_of_boxes(test_cfg)

    def answer(self, features: BridgedFeatures, test_cfg: Mapping[str, Any]) -> Answers:
        """Boxes and scores of all queries, in their order.

        Args:
            features: Bridged features of B (image, sentence) pairs.
            test_cfg: Unused.
        """
        boxes, scores = self(features)
        return Answers(None, None, boxes[-1], scores[-1].sigmoid())

    def predict_by_feat(
        self,
        answers: Answers,
        data_samples: Sequence[SegDataSample] | None,
        input_hw: tuple[int, int],
        test_cfg: Mapping[str, Any],
    ) -> list[SegDataSample]:
        """Complete samples by what :meth:`answer` gave.

        Args:
            answers: Of B sentences.
            data_samples: One for each, completed in place. None: new ones, for the network's input.
            input_hw: Size of the network's input.
            test_cfg: Unused.

        Returns:
            The samples, with ``pred_instances`` of all queries, see :func:`~.boxes.complete_by_boxes`.
        """
        return complete_by_boxes(answers.boxes, answers.box_scores, data_samples, input_hw)


def places(height: int, width: int, channels: int) -> Tensor:
    """Sines and cosines of the places of a grid, a half of the channels for each axis (DETR, "sine" positions).

    Args:
        height: Of the grid.
        width: Likewise.
        channels: A multiple of 4.

    Returns:
        (height * width, channels).
    """
    frequencies = 10000 ** (-torch.arange(channels // 4) / (channels // 4))
    axes = []
    for size in (height, width):
        angles = (torch.arange(size) + 0.5).unsqueeze(1) * (2 * torch.pi / size) * frequencies
        axes.append(torch.cat([angles.sin(), angles.cos()], 1))
    rows, columns = axes
    grid = [rows.unsqueeze(1).expand(-1, width, -1), columns.unsqueeze(0).expand(height, -1, -1)]
    return torch.cat(grid, 2).flatten(0, 1)
