"""How well boxes are found: Acc@0.5 and mean IoU; for sentences of no, one and several objects F1 and N-acc."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_iou

from mmetris.registry import METRICS
from mmetris.utils.shapes import bounds_of


@METRICS.register_module()
class BoxMetric(BaseMetric):
    """Scores of boxes, in percent.

    - ``mIoU``: mean over the sentences of the IoU of the box with the highest score and the true one. Of several true
      boxes that of the highest IoU counts.
    - ``Acc@X``: share of the sentences whose IoU is at least X. With X = 0.5 it is what grounding reports, and
      MMDetection calls ``precision@1``.
    - ``mask_mIoU``, ``mask_Acc@X``: the same of the box around the predicted mask, where the model predicts one; the
      only scores of a model without boxes.
    - ``F1``, ``N-acc`` with ``several=True``, as gRefCOCO's detection is evaluated: the share of sentences whose boxes,
      those with a score of at least ``threshold``, and true ones are matched without remainder at an IoU of 0.5; and
      the share of those that mean nothing for which no box is given.

    A sentence without a true box counts for F1 and N-acc only; without ``several`` it is left out, with a warning.

    Args:
        thresholds: X of Acc@X. Defaults to ``(0.5,)``.
        several: Whether sentences may mean nothing or several objects. Defaults to False.
        threshold: Score from which on a box is given, for ``several``. Defaults to 0.5.
        collect_device: See MMEngine. Defaults to ``'cpu'``.
        prefix: See MMEngine. Defaults to None.

    Raises:
        ValueError: If a threshold is not between 0 and 1.
    """

    def __init__(
        self,
        thresholds: Sequence[float] = (0.5,),
        several: bool = False,
        threshold: float = 0.5,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if wrong := [value for value in (*thresholds, threshold) if not 0 <= value <= 1]:
            raise ValueError(f'thresholds must be between 0 and 1, but one is {wrong[0]}')
        self.thresholds, self.several, self.threshold = tuple(thresholds), several, threshold

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Compare the boxes of a batch.

        Args:
            data_batch: Unused.
            data_samples: Samples as dicts, with ``gt_instances`` and ``pred_instances``.

        Raises:
            KeyError: If a sample has no true boxes, or neither boxes nor a mask predicted.
        """
        for sample in data_samples:
            missing = [part for part in ('gt_instances', 'pred_instances') if part not in sample]
            if 'gt_instances' in missing or (missing and 'pred_sem_seg' not in sample):
                raise KeyError(
                    f'{sample.get("img_path", "a sample")} has no {missing[0]}; boxes need with_boxes=True of the data '
                    'set, and a model that predicts boxes or masks'
                )
            true = torch.as_tensor(sample['gt_instances']['bboxes']).float().cpu().reshape(-1, 4)
            kept = dict(has_target=bool(len(true)), iou=None, mask_iou=_mask_box_iou(sample, true))
            if not missing:
                kept |= self._compare(sample['pred_instances'], true)
            self.results.append(kept)

    def _compare(self, predicted: Any, true: torch.Tensor) -> dict[str, Any]:
        found = torch.as_tensor(predicted['bboxes']).float().cpu().reshape(-1, 4)
        scores = torch.as_tensor(predicted['scores']).float().cpu()
        overlaps = box_iou(found, true)
        given = scores >= self.threshold
        best = float(overlaps[scores.argmax()].max()) if len(true) and len(found) else 0.0
        return dict(iou=best, all_found=_all_found(overlaps[given]), num_given=int(given.sum()))

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Scores of all samples.

        Args:
            results: What :meth:`process` kept, of all processes.

        Raises:
            ValueError: If there is no sentence to score.
        """
        with_target = [one for one in results if one['has_target']]
        if not with_target and not self.several:
            raise ValueError('no sentence has a true box, so that there is nothing to score')
        if len(with_target) < len(results) and not self.several:
            MMLogger.get_current_instance().warning(
                '%d of %d sentences have no true box and are not scored', len(results) - len(with_target), len(results)
            )
        scores: dict[str, float] = {}
        for prefix, key in (('', 'iou'), ('mask_', 'mask_iou')):
            ious = np.array([one[key] for one in with_target if one[key] is not None])
            if len(ious):
                scores[f'{prefix}mIoU'] = 100 * float(ious.mean())
                for threshold in self.thresholds:
                    scores[f'{prefix}Acc@{threshold:g}'] = 100 * float((ious >= threshold).mean())
        answered = [one for one in results if 'num_given' in one]
        if self.several and answered:
            scores['F1'] = 100 * float(np.mean([one['all_found'] for one in answered]))
            without = [one['num_given'] == 0 for one in answered if not one['has_target']]
            if without:
                scores['N-acc'] = 100 * float(np.mean(without))
        return scores


def _all_found(overlaps: torch.Tensor) -> bool:
    """Whether boxes given (rows) and true ones (columns) are matched one to one at an IoU of 0.5, none left over."""
    if overlaps.shape[0] != overlaps.shape[1]:
        return False
    rows, columns = linear_sum_assignment(-(overlaps >= 0.5).float().numpy())
    return bool((overlaps[rows, columns] >= 0.5).all())


def _mask_box_iou(sample: dict, true: torch.Tensor) -> float | None:
    """IoU of the box around the predicted mask; None without a mask or a true box."""
    if 'pred_sem_seg' not in sample or not len(true):
        return None
    mask = torch.as_tensor(sample['pred_sem_seg']['data']).squeeze(0).cpu() == 1
    return float(box_iou(torch.tensor([bounds_of(mask.numpy())], dtype=torch.float32), true).max())
