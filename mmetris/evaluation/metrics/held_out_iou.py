"""Mean IoU of the classes that training did not see, beside that of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmseg.evaluation import IoUMetric

from mmetris.registry import METRICS


@METRICS.register_module()
class HeldOutIoUMetric(IoUMetric):
    """MMSeg's IoUMetric, with two more means: ``mIoU/held-out`` and ``mIoU/seen``, in percent.

    All classes compete for every pixel in both (the "generalised" zero-shot setting). A class that is neither in the
    ground truth nor in any prediction counts in no mean.

    Args:
        held_out: Names of the classes that training did not see, see :class:`ClassNameSegmentor`.
        **kwargs: Arguments of MMSeg's IoUMetric.
    """

    def __init__(self, held_out: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.held_out = frozenset(held_out)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """MMSeg's metrics of all samples, and the two means.

        Raises:
            ValueError: If a held-out class is none of the data set's.
        """
        classes = self.dataset_meta['classes']
        if unknown := self.held_out - set(classes):
            raise ValueError(f'held_out={sorted(unknown)} of HeldOutIoUMetric are no classes of the data set')
        metrics = super().compute_metrics(results)
        if self.format_only:
            return metrics
        intersection, union = (sum(result[field] for result in results).numpy() for field in (0, 1))
        iou = 100 * intersection / np.where(union > 0, union, np.nan)
        is_held_out = np.array([name in self.held_out for name in classes])
        metrics['mIoU/held-out'] = round(float(np.nanmean(iou[is_held_out])), 2)
        metrics['mIoU/seen'] = round(float(np.nanmean(iou[~is_held_out])), 2)
        return metrics
