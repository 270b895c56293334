"""How often the right class is found, by the model and by zero-shot CLIP on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from prettytable import PrettyTable
from torch import Tensor

from mmetris.registry import METRICS

# Prefix of the scores, as MMPretrain has them, and the logits that they are made from.
_ANSWERS = (('accuracy', 'pred_logits'), ('zero-shot', 'zero_shot_logits'))


@METRICS.register_module()
class ClassAccuracy(BaseMetric):
    """Scores of classification in percent.

    - ``accuracy/top1``, ``accuracy/top5``: share of the images whose class is among the first one or five.
    - ``zero-shot/top1``, ``zero-shot/top5``: the same of CLIP itself, where the model says it.
    - ``accuracy/top1/held-out``, ``accuracy/top1/seen`` and so on, with ``held_out``.
    - ``single-label/precision``, ``recall``, ``f1-score`` with ``per_class``: means over the classes, as in
      MMPretrain (a class that was never answered has precision 0), and a table of them in the log.

    Of equal scores the class that stands first counts as the better one.

    Args:
        topk: Defaults to (1, 5). Ranks that there are not enough classes for are left out: they would be 100.
        held_out: Names of classes that training did not see, whose images are also scored by themselves, all classes
            competing. Defaults to none.
        per_class: See above. Defaults to False.
        collect_device: See MMEngine. Defaults to ``'cpu'``.
        prefix: See MMEngine. Defaults to None.

    Raises:
        ValueError: If a rank is not positive.
    """

    # None would have MMEngine warn at every start.
    default_prefix = ''

    def __init__(
        self,
        topk: Sequence[int] = (1, 5),
        held_out: Sequence[str] = (),
        per_class: bool = False,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if not topk or min(topk) < 1:
            raise ValueError(f'topk={tuple(topk)} must be ranks from 1')
        self.topk, self.held_out, self.per_class = tuple(topk), frozenset(held_out), per_class

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Rank the true classes of a batch.

        Args:
            data_batch: Unused.
            data_samples: Samples as dicts, with ``gt_label`` and ``pred_logits``.

        Raises:
            KeyError: If a sample has no label or no prediction.
            ValueError: If a label is no class, or logits are not finite.
        """
        for sample in data_samples:
            where = sample.get('img_path', 'a sample')
            for key in ('gt_label', 'pred_logits'):
                if key not in sample:
                    raise KeyError(f'{where} has no {key}; data need with_label=True, and a model that classifies')
            label = int(sample['gt_label'])
            kept = dict(label=label, num_classes=len(sample['pred_logits']))
            for name, key in _ANSWERS:
                if key in sample:
                    kept[name] = rank_of(sample[key], label, where)
            kept['answer'] = int(sample['pred_logits'].argmax())
            self.results.append(kept)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Scores of all samples.

        Args:
            results: What :meth:`process` kept, of all processes.

        Raises:
            ValueError: If there is no image, or a class held out is none of the data's.
        """
        if not results:
            raise ValueError('no images were scored')
        num_classes = results[0]['num_classes']
        labels = np.array([one['label'] for one in results])
        groups = dict(self._groups(labels)) if self.held_out else {}
        scores: dict[str, float] = {}
        for name, _ in _ANSWERS:
            if name not in results[0]:
                continue
            ranks = np.array([one[name] for one in results])
            for k in self.topk:
                if k == 1 or k < num_classes:
                    scores[f'{name}/top{k}'] = 100 * float((ranks < k).mean())
                    for group, members in groups.items():
                        scores[f'{name}/top{k}/{group}'] = 100 * float((ranks[members] < k).mean())
        if self.per_class:
            answers = np.array([one['answer'] for one in results])
            scores |= self._by_class(labels, answers, num_classes)
        return scores

    def _groups(self, labels: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """Which images are of classes held out, and which of others."""
        classes = (self.dataset_meta or {}).get('classes', ())
        if unknown := self.held_out - set(classes):
            raise ValueError(f'held_out={sorted(unknown)} of ClassAccuracy are no classes of the data set')
        is_held_out = np.array([name in self.held_out for name in classes])[labels]
        groups = [('held-out', is_held_out), ('seen', ~is_held_out)]
        return [(name, members) for name, members in groups if members.any()]

    def _by_class(self, labels: np.ndarray, answers: np.ndarray, num_classes: int) -> dict[str, float]:
        right = np.bincount(labels[labels == answers], minlength=num_classes)
        precision = 100 * right / np.maximum(np.bincount(answers, minlength=num_classes), 1)
        num_images = np.bincount(labels, minlength=num_classes)
        recall = 100 * right / np.maximum(num_images, 1)
        total = precision + recall
        f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
        table = PrettyTable(['class', 'images', 'precision', 'recall', 'f1-score'])
        names = (self.dataset_meta or {}).get('classes', range(num_classes))
        for name, *values in zip(names, num_images, precision, recall, f1):
            table.add_row([name, values[0], *(f'{value:.2f}' for value in values[1:])])
        print_log(f'by class:\n{table.get_string()}', logger='current')
        means = zip(('precision', 'recall', 'f1-score'), (precision, recall, f1))
        return {f'single-label/{name}': float(values.mean()) for name, values in means}


def rank_of(logits: Tensor, label: int, where: str = 'a sample') -> int:
    """How many classes come before one, 0 for the best.

    Args:
        logits: (K,).
        label: The class.
        where: What the sample is called, for messages.

    Raises:
        ValueError: If the label is no class, or logits are not finite.
    """
    if label not in range(len(logits)):
        raise ValueError(f'{where} has the label {label}, but there are {len(logits)} classes')
    if not torch.isfinite(logits).all():  # NaN is before nothing, and would make every answer right.
        raise ValueError(f'{where}: its logits are not finite')
    own = logits[label]
    return int((logits > own).sum() + (logits[:label] == own).sum())
