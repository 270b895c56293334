"""What the heads share: targets, losses and the way back to the original image.

Inside of a model a box is (centre x, centre y, width, height) as shares of the network's input, so 0..1; in samples it
is left, top, right, bottom in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert, generalized_box_iou_loss

from mmetris.datasets.boxes import undo_letterbox_boxes
from mmetris.structures import BridgedFeatures, RefDataSample
from mmetris.utils.autocast import autocast_to
from mmetris.utils.letterbox import LetterboxGeometry
from mmetris.utils.shapes import hw_of


class Answers(NamedTuple):
    """What a head says of B sentences: tensors alone, so that a runtime without mmetris can have them.

    Attributes:
        logits: (B, 1, h, w) logits of the masks; None of a head of boxes alone.
        no_target_scores: (B,) scores in 0..1 that a sentence means nothing; None where that is not decided.
        boxes: (B, Q, 4), (centre x, centre y, width, height) as shares of the input.
        box_scores: (B, Q) in 0..1.
    """

    logits: Tensor | None
    no_target_scores: Tensor | None
    boxes: Tensor
    box_scores: Tensor


class BoxHead(BaseModule):
    """A head of boxes: it has ``loss``, ``answer`` and ``predict_by_feat``, and predicts by the last two."""

    answer: Callable[..., Answers]
    predict_by_feat: Callable[..., list[SegDataSample]]

    def predict(
        self,
        features: BridgedFeatures,
        data_samples: Sequence[SegDataSample] | None,
        input_hw: tuple[int, int],
        test_cfg: Mapping[str, Any] | None = None,
    ) -> list[SegDataSample]:
        """Boxes, and masks if the head makes them, of the original images.

        Args:
            features: Bridged features of B (image, sentence) pairs.
            data_samples: One for each, completed in place. None: new ones, for the network's input.
            input_hw: Size of the network's input.
            test_cfg: ``dtype`` of the model, and what the head's own methods read. Defaults to none.

        Returns:
            See ``predict_by_feat`` of the head.
        """
        test_cfg = test_cfg or {}
        with autocast_to(test_cfg.get('dtype'), features.words.device.type):
            answers = self.answer(features, test_cfg)
        return self.predict_by_feat(answers, data_samples, input_hw, test_cfg)


def target_boxes(
    data_samples: Sequence[SegDataSample], input_hw: tuple[int, int], device: torch.device
) -> list[Tensor]:
    """True boxes (K, 4) of each sample, as shares of the input; K is 0 where a sentence means nothing.

    Args:
        data_samples: They have ``gt_instances``.
        input_hw: Size of the network's input in pixels.
        device: Where they go.

    Raises:
        ValueError: If a sample has no boxes: the data set needs ``with_boxes=True``.
    """
    size = torch.tensor([input_hw[1], input_hw[0]] * 2, device=device)
    found = []
    for sample in data_samples:
        if 'gt_instances' not in sample or 'bboxes' not in sample.gt_instances:
            raise ValueError(
                f'{sample.metainfo.get("img_path", "a sample")} has no boxes: set with_boxes=True of the data set, and '
                'keep LoadAnnotations and PackSegInputs in its pipeline'
            )
        boxes = torch.as_tensor(sample.gt_instances.bboxes, dtype=torch.float32, device=device).reshape(-1, 4)
        found.append(box_convert(boxes, 'xyxy', 'cxcywh') / size)
    return found


def around_all(boxes: Tensor) -> Tensor:
    """The box (4,) around boxes (K, 4), K at least 1; all (centre x, centre y, width, height)."""
    corners = box_convert(boxes, 'cxcywh', 'xyxy')
    return box_convert(torch.cat([corners[:, :2].amin(0), corners[:, 2:].amax(0)]), 'xyxy', 'cxcywh')


def box_losses(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """L1 and GIoU losses of boxes, in float32.

    Args:
        boxes: (N, 4), (centre x, centre y, width, height) as shares.
        targets: (N, 4), likewise.

    Returns:
        Means over the boxes, of |difference| summed over the four numbers and of 1 - GIoU; 0 where there are none.
    """
    boxes, targets = boxes.float(), targets.float()
    if not len(boxes):
        return boxes.sum(), boxes.sum()
    distance = F.l1_loss(boxes, targets, reduction='none').sum(1).mean()
    overlap = generalized_box_iou_loss(
        box_convert(boxes, 'cxcywh', 'xyxy'), box_convert(targets, 'cxcywh', 'xyxy'), reduction='mean'
    )
    return distance, overlap


def complete_by_boxes(
    boxes: Tensor, scores: Tensor, data_samples: Sequence[SegDataSample] | None, input_hw: tuple[int, int]
) -> list[SegDataSample]:
    """Complete samples by boxes of their original images.

    Args:
        boxes: (B, Q, 4), (centre x, centre y, width, height) as shares of the input.
        scores: (B, Q) in 0..1.
        data_samples: One for each row, completed in place. None: new ones, with boxes of the input.
        input_hw: Size of the network's input in pixels.

    Returns:
        The samples, with ``pred_instances``: ``bboxes`` (Q, 4) left, top, right, bottom in pixels, cut to the image,
        and ``scores`` (Q,), highest first.
    """
    if data_samples is None:
        data_samples = [RefDataSample() for _ in boxes]
    size = torch.tensor([input_hw[1], input_hw[0]] * 2, device=boxes.device)
    order = scores.float().argsort(dim=1, descending=True, stable=True)
    for index, sample in enumerate(data_samples):
        corners = box_convert(boxes[index, order[index]].float(), 'cxcywh', 'xyxy') * size
        sample.pred_instances = InstanceData(
            bboxes=_of_original(corners, sample.metainfo, input_hw), scores=scores[index, order[index]].float()
        )
    return list(data_samples)


def _of_original(boxes: Tensor, metainfo: Mapping[str, Any], input_hw: tuple[int, int]) -> Tensor:
    height, width = metainfo.get('ori_shape', input_hw)[:2]
    if 'letterbox' in metainfo:
        array = undo_letterbox_boxes(boxes.detach().double().cpu().numpy(), LetterboxGeometry(*metainfo['letterbox']))
        boxes = torch.from_numpy(array).to(boxes)
    elif 'scale_factor' in metainfo:
        boxes = boxes / torch.tensor([*metainfo['scale_factor'][:2]] * 2, device=boxes.device)
    limits = torch.tensor([width, height] * 2, device=boxes.device)
    return torch.minimum(boxes.clamp(min=0), limits)


def no_rule_of_boxes(test_cfg: Mapping[str, Any]) -> None:
    """Refuse a rule for "not in the picture" of a head that makes no masks.

    Args:
        test_cfg: ``no_target`` of the model.

    Raises:
        ValueError: If it has one.
    """
    if test_cfg.get('no_target'):
        raise ValueError(
            f'test_cfg.no_target={test_cfg["no_target"]!r} is a rule for masks, and this model gives boxes alone: set '
            'test_cfg.box_threshold, below which no box is given'
        )


def input_hw_of(data_samples: Sequence[SegDataSample]) -> tuple[int, int]:
    """Size of the network's input, which the samples of a batch share."""
    sample = data_samples[0]
    if 'gt_sem_seg' in sample:
        return hw_of(sample.gt_sem_seg.data)
    height, width = sample.metainfo.get('pad_shape', sample.metainfo['img_shape'])[:2]
    return int(height), int(width)
