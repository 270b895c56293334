"""A box from the fused map: ETRIS's alignments, a pooling where the object is, and a small network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_convert, box_iou

from mmetris.models import ETRISHead
from mmetris.models.decode_heads import NoTargetRule
from mmetris.models.decode_heads.no_target import mask_score
from mmetris.registry import MODELS
from mmetris.structures import BridgedFeatures

from .boxes import (
    Answers,
    BoxHead,
    around_all,
    box_losses,
    complete_by_boxes,
    input_hw_of,
    no_rule_of_boxes,
    target_boxes,
)

_EDGE = 1e-3  # Shares beyond it have no logit.


@MODELS.register_module()
class PooledBoxHead(BoxHead):
    """One box for each sentence, from ETRIS's aligned map.

    ::

        maps, words, sentence --> ETRISHead: aligned map --------> mean where the object is -+
                                             logits of the mask -> moments: a first box -----+-> MLP --> box, quality
        sentence ----------------------------------------------------------------------------+

    The squared probabilities of the mask are weights of the map's cells. The weighted mean of the aligned map says what
    is there; the weighted mean and spread of the cells' places are a first box, that of an evenly filled rectangle,
    which the MLP corrects (by zero, to begin with). ``quality`` is the IoU that the box is expected to have, 0 where
    the sentence means nothing.

    With ``with_mask`` the mask is trained beside and predicted too: alignments and projector are shared, and weights of
    an :class:`~mmetris.models.ETRISHead` fit below ``decoder.``. Without it, the logits are learnt from boxes alone.

    Where a sentence means several objects the box is the one around all; a :class:`TransformerBoxHead` gives each its
    own.

    Args:
        in_channels: Widths of the maps. The model fills in this and the next three.
        in_strides: Strides of the maps in input pixels.
        word_channels: Width of the word features.
        sentence_channels: Width of the sentence feature.
        decoder: Options of the :class:`~mmetris.models.ETRISHead`. Defaults to none: the paper's.
        channels: Width of the MLP. Defaults to 256.
        with_mask: Whether the mask is trained and predicted. Defaults to True.
        mask_weight: Factor of the mask's losses. Defaults to 1.
        l1_weight: Factor of the L1 loss. Defaults to 0.5, a tenth of DETR's: the mask's loss is a mean over pixels and
            small, and masks came out worse with those (README).
        giou_weight: Factor of the GIoU loss. Defaults to 0.2, likewise.
        quality_weight: Factor of the loss of the quality. Defaults to 0.1.
        init_cfg: Initial weights, see MMEngine. Defaults to None.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        word_channels: int,
        sentence_channels: int,
        decoder: Mapping | None = None,
        channels: int = 256,
        with_mask: bool = True,
        mask_weight: float = 1.0,
        l1_weight: float = 0.5,
        giou_weight: float = 0.2,
        quality_weight: float = 0.1,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.decoder: ETRISHead = MODELS.build(
            dict(
                type='ETRISHead',
                in_channels=in_channels,
                in_strides=in_strides,
                word_channels=word_channels,
                sentence_channels=sentence_channels,
            )
            | dict(decoder or {})
        )
        self.with_mask, self.mask_weight = with_mask, mask_weight
        self.l1_weight, self.giou_weight, self.quality_weight = l1_weight, giou_weight, quality_weight
        # Width of the aligned map.
        map_channels = self.decoder.channels
        self.object_norm = nn.LayerNorm(map_channels)
        self.picture_norm = nn.LayerNorm(map_channels)
        self.sentence_norm = nn.LayerNorm(sentence_channels)
        self.hidden = nn.Sequential(
            nn.Linear(2 * map_channels + sentence_channels + 4, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
            nn.ReLU(),
        )
        self.correction = nn.Linear(channels, 4)
        self.quality = nn.Linear(channels, 1)
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)

    def forward(self, features: BridgedFeatures) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes of B (image, sentence) pairs.

        Args:
            features: Their bridged features.

        Returns:
            (B, 4) boxes (centre x, centre y, width, height) as shares of the input; (B,) logits of the quality; (B, 1,
            h, w) logits of the mask.
        """
        aligned, logits = self._align(features)
        return *self._boxes(aligned, logits, features), logits

    def _align(self, features: BridgedFeatures) -> tuple[Tensor, Tensor]:
        """The aligned map and the logits of the mask."""
        aligned = self.decoder.align_globally(self.decoder.align_hierarchically(features), features)
        return aligned, self.decoder.projector(aligned, features.sentence)

    def _boxes(self, aligned: Tensor, logits: Tensor, features: BridgedFeatures) -> tuple[Tensor, Tensor]:
        """Boxes and logits of their quality."""
        # Where masks teach them, boxes do not: those would fill the mask's corners.
        # Squares, since many cells of little probability would outweigh a small object.
        weights = (logits.detach() if self.with_mask else logits).float().sigmoid().square()
        first = box_of_moments(weights)
        cells = F.avg_pool2d(weights, weights.shape[-1] // aligned.shape[-1]).flatten(1)
        cells = cells / cells.sum(1, keepdim=True).clamp(min=1e-6)
        pixels = aligned.flatten(2)
        there = (pixels @ cells.to(pixels.dtype).unsqueeze(2)).squeeze(2)
        parts = [self.object_norm(there), self.picture_norm(pixels.mean(2)), self.sentence_norm(features.sentence)]
        first_logits = torch.logit(first, eps=_EDGE)
        hidden = self.hidden(torch.cat([*parts, first_logits.to(parts[0].dtype)], 1))
        boxes = (first_logits + self.correction(hidden).float()).sigmoid()
        return boxes, self.quality(hidden).squeeze(1).float()

    def loss(
        self, features: BridgedFeatures, data_samples: Sequence[SegDataSample], train_cfg: dict | None = None
    ) -> dict[str, Tensor]:
        """Losses of B (image, sentence) pairs.

        Args:
            features: Their bridged features.
            data_samples: One for each, with ``gt_instances`` and, for the mask, ``gt_sem_seg``.
            train_cfg: Unused.

        Returns:
            ``loss_l1``, ``loss_giou``, ``loss_quality``, those of the mask and of the decoder's no-target head, if it
            has one, and ``box_iou`` in percent for the log.
        """
        aligned, logits = self._align(features)
        boxes, quality = self._boxes(aligned, logits, features)
        input_hw = input_hw_of(data_samples)
        targets = target_boxes(data_samples, input_hw, boxes.device)
        has_target = torch.tensor([len(target) > 0 for target in targets], device=boxes.device)
        wanted = torch.stack([around_all(target) if len(target) else target.new_zeros(4) for target in targets])
        distance, overlap = box_losses(boxes[has_target], wanted[has_target])
        with torch.no_grad():
            ious = box_iou(box_convert(boxes, 'cxcywh', 'xyxy'), box_convert(wanted, 'cxcywh', 'xyxy')).diagonal()
            ious = torch.where(has_target, ious, 0.0)
        losses = dict(
            loss_l1=self.l1_weight * distance,
            loss_giou=self.giou_weight * overlap,
            loss_quality=self.quality_weight * F.binary_cross_entropy_with_logits(quality, ious),
            box_iou=100.0 * ious.sum() / has_target.sum().clamp(min=1),
        )
        if self.with_mask:
            for name, value in self.decoder.loss_by_feat(logits, data_samples).items():
                losses[name] = self.mask_weight * value if 'loss' in name else value
            if self.decoder.no_target_head is not None:
                absence = self.decoder.no_target_head(aligned, features.sentence, logits)
                masks = torch.stack([sample.gt_sem_seg.data for sample in data_samples])
                losses |= self.decoder.no_target_head.loss(absence, masks)
        return losses

    def no_target_rule(self, test_cfg: Mapping[str, Any]) -> NoTargetRule | None:
        """How "not in the picture" is decided: by the masks, as :class:`~mmetris.models.ETRISHead` does it.

        Args:
            test_cfg: ``no_target`` of the model.

        Raises:
            ValueError: If there is a rule and no mask, or no such rule.
        """
        if self.with_mask:
            return self.decoder.no_target_rule(test_cfg)
        return no_rule_of_boxes(test_cfg)

    def answer(self, features: BridgedFeatures, test_cfg: Mapping[str, Any]) -> Answers:
        """One box for each sentence, and with ``with_mask`` the logits of its mask.

        Args:
            features: Bridged features of B (image, sentence) pairs.
            test_cfg: ``no_target`` of the model.
        """
        aligned, logits = self._align(features)
        boxes, quality = self._boxes(aligned, logits, features)
        logits = logits.float()
        rule, absence = self.no_target_rule(test_cfg), None
        if rule is not None and rule.by == 'head':
            assert self.decoder.no_target_head is not None  # The rule is by it.
            absence = self.decoder.no_target_head(aligned, features.sentence, logits).float().sigmoid()
        elif rule is not None:
            absence = mask_score(rule.by, logits, self.decoder.threshold)
        return Answers(logits if self.with_mask else None, absence, boxes.unsqueeze(1), quality.sigmoid().unsqueeze(1))

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
            test_cfg: ``corner_aligned`` and ``no_target`` of the model.

        Returns:
            The samples, with ``pred_instances`` (see :func:`~.boxes.complete_by_boxes`) of one box, of none where the
            sentence means nothing by the model's rule, and with ``with_mask``, ``pred_sem_seg`` and ``seg_logits``.
        """
        samples = complete_by_boxes(answers.boxes, answers.box_scores, data_samples, input_hw)
        if answers.logits is not None:
            self.decoder.predict_by_feat(answers.logits, samples, input_hw, test_cfg, answers.no_target_scores)
        for sample in samples:
            if sample.get('pred_no_target', False):
                sample.pred_instances = sample.pred_instances[:0]
        return samples


def box_of_moments(weights: Tensor) -> Tensor:
    """The evenly filled rectangle whose cells have the same mean place and spread.

    Args:
        weights: (B, 1, h, w), not negative.

    Returns:
        (B, 4): centre x, centre y, width, height, as shares of the grid.
    """
    weights = weights.float()
    total = weights.sum((-1, -2)).clamp(min=1e-6).unsqueeze(-1)
    found = []
    for axis, size in ((-1, weights.shape[-1]), (-2, weights.shape[-2])):
        share = weights.sum(-1 if axis == -2 else -2) / total  # (B, 1, size)
        places = (torch.arange(size, device=weights.device) + 0.5) / size
        mean = (share * places).sum(-1)
        spread = (share * (places - mean.unsqueeze(-1)) ** 2).sum(-1)
        # That of n cells in a row is n² - 1 twelfths, and a box has no less than one.
        found.append((mean, (12 * spread + 1 / size**2).sqrt()))
    (x, width), (y, height) = found
    return torch.cat([x, y, width, height], 1)
