"""mIoU after 0, 1, 3 and more clicks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmetris.evaluation import RefSegMetric
from mmetris.registry import METRICS


@METRICS.register_module()
class ClickMetric(RefSegMetric):
    """Scores of :class:`~mmetris.evaluation.RefSegMetric` after numbers of clicks: ``mIoU@3`` is that after three.

    Args:
        num_clicks: Numbers of clicks. Defaults to ``(0, 1, 3, 5)``.
        metric: Scores of each, see there. Defaults to ``'mIoU'``.
        prefix: Put before the names with a slash. Defaults to ``'clicks'``.
        **kwargs: The other arguments of :class:`~mmetris.evaluation.RefSegMetric`, but those that write files; for data
            whose sentences may mean nothing ``empty_target='one'``.

    Raises:
        ValueError: If there is no number, or a negative one; see there for the other arguments.
    """

    def __init__(
        self,
        num_clicks: Sequence[int] = (0, 1, 3, 5),
        metric: str | Sequence[str] = 'mIoU',
        prefix: str | None = 'clicks',
        **kwargs: Any,
    ) -> None:
        super().__init__(metric, prefix=prefix, **kwargs)
        if not num_clicks or min(num_clicks) < 0:
            raise ValueError(f'num_clicks={tuple(num_clicks)} must be one or more numbers, none negative')
        if self.output_dir is not None:
            raise ValueError('output_dir: a ClickMetric writes no masks, since those after other clicks have one name')
        self.num_clicks = tuple(num_clicks)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Count the overlap of the masks of a batch.

        Args:
            data_batch: Unused.
            data_samples: Samples as dicts, with ``click_masks`` and ``gt_sem_seg``.

        Raises:
            KeyError: If a sample has no masks after so many clicks.
        """
        most = max(self.num_clicks)
        for sample in data_samples:
            masks = sample.get('click_masks')
            if masks is None or len(masks) <= most:
                raise KeyError(
                    f'{sample.get("img_path", "a sample")} has no masks after {most} clicks: set '
                    f'model.test_cfg.simulated_clicks={most} of a ClickSegmentor'
                )
            for number in self.num_clicks:
                super().process(data_batch, [dict(sample, pred_sem_seg=dict(data=masks[number]))])
                self.results[-1] = (number, self.results[-1])

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Scores after each number of clicks.

        Args:
            results: What :meth:`process` kept, of all processes, copies included.
        """
        scores: dict[str, float] = {}
        for number in self.num_clicks:
            self.note = f'mean over sentences, after {number} clicks'
            found = super().compute_metrics([result for clicks, result in results if clicks == number])
            scores |= {name if name == 'samples' else f'{name}@{number}': value for name, value in found.items()}
        return scores
