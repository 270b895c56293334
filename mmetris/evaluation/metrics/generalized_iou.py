"""The metric of generalized referring segmentation: sentences that mean nothing, one object or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.logging import print_log

from mmetris.registry import METRICS

from ..functional import mean_of, overall_iou, share_of
from .referring_iou import RefSegMetric, SampleOverlap, counts_of


@METRICS.register_module()
class GRefSegMetric(RefSegMetric):
    """gIoU, cIoU, N-acc, T-acc and Pr@X in percent, as ReLA evaluates gRefCOCO (Liu et al., "GRES", 2023).

    ================ ======================= ======================= =======================================
    sentence means   empty prediction        prediction with pixels
    ================ ======================= ======================= =======================================
    nothing          IoU 1; adds nothing to  IoU 0; its pixels to    N-acc: share of the first among these two
                     I and U                 U
    something        IoU 0; the target's     I / U; both are added   T-acc: share of the second among these
                     pixels to U                                     two
    ================ ======================= ======================= =======================================

    gIoU is the mean IoU over all samples, cIoU the sum of I over that of U, Pr@X the share of the samples with a target
    whose IoU is at least X. A sample with a true ``pred_no_target`` (a model that answers "not in the picture") counts
    as an empty prediction, whatever its mask.

    Args:
        metric: Scores to report. Defaults to ``('gIoU', 'cIoU', 'N-acc', 'T-acc', 'Pr')``, all of them. N-acc and T-acc
            are left out where no sample is of their kind.
        thresholds: X of Pr@X. Defaults to ``(0.7, 0.8, 0.9)``.
        **kwargs: The other arguments of :class:`RefSegMetric`, but ``empty_target``.

    Raises:
        ValueError: See :class:`RefSegMetric`.
    """

    names = {name: name for name in ('gIoU', 'cIoU', 'N-acc', 'T-acc', 'Pr')}
    note = 'gIoU: mean over sentences, with those that mean nothing'

    def __init__(
        self,
        metric: str | Sequence[str] = ('gIoU', 'cIoU', 'N-acc', 'T-acc', 'Pr'),
        thresholds: Sequence[float] = (0.7, 0.8, 0.9),
        **kwargs: Any,
    ) -> None:
        super().__init__(metric, thresholds, empty_target='one', **kwargs)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Count the overlap of each sample of a batch; see :meth:`RefSegMetric.process`."""
        answered = []
        for data_sample in data_samples:
            if data_sample.get('pred_no_target', False):
                mask = torch.zeros_like(torch.as_tensor(data_sample['pred_sem_seg']['data']))
                data_sample = {**data_sample, 'pred_sem_seg': dict(data=mask)}
            answered.append(data_sample)
        super().process(data_batch, answered)

    def scores_of(self, overlaps: Sequence[SampleOverlap]) -> tuple[dict[str, float], int]:
        """See :meth:`RefSegMetric.scores_of`."""
        ious = self.sample_ious(overlaps)
        has_target = torch.tensor([overlap.has_target for overlap in overlaps])
        has_prediction = torch.tensor([overlap.has_prediction for overlap in overlaps])
        kinds = {'N-acc': ~has_target, 'T-acc': has_target, 'Pr': has_target}
        scores: dict[str, float] = {}
        for name in self.metrics:
            of_kind = kinds.get(name)
            if of_kind is not None and not of_kind.any():
                print_log(f'{name} is not reported: no sentence is of its kind', logger='current')
            elif name == 'gIoU':
                scores[name] = 100 * mean_of(ious)
            elif name == 'cIoU':
                scores[name] = 100 * overall_iou(*counts_of(overlaps))
            elif name == 'N-acc':
                scores[name] = 100 * share_of(~has_prediction[~has_target])
            elif name == 'T-acc':
                scores[name] = 100 * share_of(has_prediction[has_target])
            else:
                for threshold in self.thresholds:
                    scores[f'Pr@{threshold:g}'] = 100 * share_of(ious[has_target] >= threshold)
        return scores, len(overlaps)
