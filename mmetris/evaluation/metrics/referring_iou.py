"""The metric of referring image segmentation: one mask for one sentence, scored at the original image
size."""

from __future__ import annotations

import csv
import logging
import os.path as osp
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.dist import all_reduce
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmengine.utils import mkdir_or_exist
from PIL import Image
from prettytable import PrettyTable

from mmetris.registry import METRICS
from mmetris.utils.file_names import sample_name
from mmetris.utils.text_files import writable

from ..functional import intersection_and_union, mean_of, overall_iou, sample_iou, share_of

# What may be asked for, and the one of the three scores that it means.
METRIC_NAMES = {'oIoU': 'oIoU', 'cIoU': 'oIoU', 'mIoU': 'mIoU', 'gIoU': 'mIoU', 'Pr': 'Pr'}

EMPTY_TARGET = ('zero', 'one', 'ignore')


class SampleOverlap(NamedTuple):
    """What one sample contributes; plain values, so that processes exchange it cheaply."""

    # Identity of the sample, None where its meta information does not tell.
    key: tuple | None
    name: str
    expression: str
    intersection: int
    union: int
    has_target: bool
    has_prediction: bool
    # File name of the picture.
    image: str = ''
    # Score that the sentence means nothing in the picture, of a model that decides it.
    no_target_score: float | None = None


def sample_key(data_sample: Mapping[str, Any]) -> tuple | None:
    """Identity of a sample, equal for every copy of it that a sampler hands out.

    ``sample_idx``, which MMEngine's data sets count up, is enough within one data set. The other ids tell
    samples of concatenated data sets apart.

    Args:
        data_sample: A data sample as a dict, as MMEngine's evaluator passes it.

    Returns:
        A hashable identity, or None if the sample carries no ``sample_idx``.
    """
    if data_sample.get('sample_idx') is None:
        return None
    fields = ('sample_idx', 'sent_id', 'ref_id', 'ann_id', 'img_path')
    # As text, because ids may come as Python or NumPy integers or (several sentences joined) as lists.
    return tuple(str(data_sample.get(field)) for field in fields)


@METRICS.register_module()
class RefSegMetric(BaseMetric):
    """oIoU, mIoU and Pr@X of referring image segmentation, in percent.

    Each sample is one sentence. ``pred_sem_seg`` and ``gt_sem_seg`` are compared at the size they have, which
    must be the same: the image's original size, so ``LoadAnnotations`` stands after the resizing in a test
    pipeline. The mIoU is the mean over sentences; MMSegmentation's metric of that name is a mean over
    classes.

    The scores are exact for any sampler and any number of processes: copies of a sample (a sampler pads with
    them to give every process equally many) are recognised by their ids and count once. Samples without
    ``sample_idx`` cannot be recognised; then the results are cut to the data set's length, as MMEngine does
    for all metrics.

    ``CheckpointHook(save_best='mIoU')`` knows by itself that more is better; for the other names it needs
    ``rule='greater'``.

    Every sentence of RefCOCO means something, so an empty ground truth is a slip of the annotation: by default such a
    sample counts as IoU 0, whatever was predicted, as in the released evaluation of ETRIS (``empty_target``). The log
    tells how many there are. For data whose sentences may mean nothing see :class:`GRefSegMetric`.

    Args:
        metric: Scores to report: 'oIoU' (also 'cIoU'), 'mIoU' (also 'gIoU'), 'Pr'; each is reported under the
            name it is asked by.
        thresholds: IoU that a sample must exceed (strictly) for each ``Pr@X``. Defaults to 0.5 to 0.9, as in
            the literature.
        empty_target: IoU of a sample whose ground truth is empty: ``'zero'`` always; ``'one'`` if the prediction is
            empty too; ``'ignore'``: it is left out of all scores. Defaults to ``'zero'``.
        ignore_index: Value of the ground truth that marks pixels left out. Defaults to 255, as in
            MMSegmentation.
        output_dir: Folder for the predicted masks, one PNG of 0 and 1 for each sentence, and
            ``sentences.csv`` (``sentences_<prefix>.csv``) with the name of each one's mask, its IoU and the file name
            of its image; of a model that decides "not in the picture", also its no-target score. Nothing is written if
            None. Defaults to None.
        format_only: Write the masks and compute no scores, for data without ground truth. Defaults to False.
        keep_results: Has no effect; MMSegmentation's test tool passes it beside ``output_dir``. Defaults to
            False.
        collect_device: 'cpu' (processes exchange results by files) or 'gpu' (by the backend). Defaults to
            'cpu'.
        prefix: Put before the scores' names with a slash. Defaults to None, so that ``save_best='mIoU'``
            finds them.
        collect_dir: Folder for the exchanged files when ``collect_device`` is 'cpu'. Defaults to None, a new
            one.

    Raises:
        ValueError: If a metric or ``empty_target`` is unknown, a threshold is outside [0, 1], or ``format_only`` has no
            ``output_dir``.
    """

    names = METRIC_NAMES
    note = 'mIoU: mean over sentences'

    def __init__(
        self,
        metric: str | Sequence[str] = ('oIoU', 'mIoU', 'Pr'),
        thresholds: Sequence[float] = (0.5, 0.6, 0.7, 0.8, 0.9),
        empty_target: str = 'zero',
        ignore_index: int = 255,
        output_dir: str | None = None,
        format_only: bool = False,
        keep_results: bool = False,
        collect_device: str = 'cpu',
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix, collect_dir=collect_dir)
        self.metrics = [metric] if isinstance(metric, str) else list(metric)
        unknown = [name for name in self.metrics if name not in self.names]
        if unknown or not self.metrics:
            raise ValueError(
                f'{type(self).__name__} has no metric {", ".join(map(repr, unknown)) or "to compute"}; valid names are '
                f'{", ".join(self.names)} (the X of Pr@X is set by `thresholds`)'
            )
        if any(not 0 <= threshold <= 1 for threshold in thresholds):
            raise ValueError(f'`thresholds` are fractions in [0, 1], but got {list(thresholds)}')
        if format_only and output_dir is None:
            raise ValueError('`format_only` writes masks and nothing else, so it needs an `output_dir`')
        if empty_target not in EMPTY_TARGET:
            raise ValueError(f'`empty_target` must be one of {", ".join(EMPTY_TARGET)}, but is {empty_target!r}')
        self.thresholds = tuple(thresholds)
        self.empty_target = empty_target
        self.ignore_index = ignore_index
        self.output_dir = output_dir
        self.format_only = format_only
        self._num_expected: int | None = None
        if output_dir is not None:
            mkdir_or_exist(output_dir)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Count the overlap of each sample of a batch.

        Args:
            data_batch: Not used.
            data_samples: Data samples as dicts with ``pred_sem_seg`` and, unless ``format_only``,
                ``gt_sem_seg``, each (1, H, W) or (H, W) in {0, 1}, the ground truth also with
                ``ignore_index``.

        Raises:
            KeyError: If a sample lacks the prediction or the ground truth.
            ValueError: If their sizes differ. Both messages name the sample.
        """
        for data_sample in data_samples:
            pred = self._mask_of(data_sample, 'pred_sem_seg', 'the model must predict it')
            name = sample_name(data_sample)
            if self.output_dir is not None:
                mask = (pred != 0).to(torch.uint8).cpu().numpy()
                Image.fromarray(mask).save(osp.join(self.output_dir, f'{name}.png'))
            intersection, union, has_target, has_prediction = 0, 0, False, bool((pred != 0).any())
            if not self.format_only:
                target = self._mask_of(data_sample, 'gt_sem_seg', 'the pipeline must have LoadAnnotations')
                if pred.shape != target.shape:
                    raise ValueError(
                        f'{_describe(data_sample)}: the prediction has size {tuple(pred.shape)} and the ground '
                        f'truth {tuple(target.shape)} (H, W). Both must have the original size: put '
                        'LoadAnnotations after the resizing in the test pipeline.'
                    )
                intersection, union = intersection_and_union(pred, target, self.ignore_index)
                counted = target != self.ignore_index
                has_target = bool(((target != 0) & counted).any())
                has_prediction = bool(((pred != 0) & counted.to(pred.device)).any())
            expression = str(data_sample.get('expression') or '')
            image = osp.basename(str(data_sample.get('img_path') or ''))
            no_target_score = data_sample.get('no_target_score')
            counts = intersection, union, has_target, has_prediction
            facts = writable(image), None if no_target_score is None else float(no_target_score)
            self.results.append((sample_key(data_sample), name, writable(expression), *counts, *facts))

    def evaluate(self, size: int) -> dict[str, float]:
        """Collect the results of all processes and compute the scores.

        Args:
            size: Number of samples in the data set.

        Returns:
            The scores by name, the same on every process.

        Raises:
            ValueError: If no process has seen any sample.
        """
        num_results = torch.tensor(len(self.results))
        all_reduce(num_results)
        if num_results == 0:
            raise ValueError('RefSegMetric has nothing to evaluate: the data loader gave no sample')
        # The base class cuts the collected list to the size it is given, whatever that cuts off. Copies may
        # stand anywhere in the list, so it gets the number of all results, and copies are dropped by their
        # ids afterwards.
        self._num_expected = size
        return super().evaluate(int(num_results))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the scores from the results of all processes.

        Args:
            results: One :class:`SampleOverlap` as a tuple for each sample, copies included.

        Returns:
            Scores in percent by name, and under 'samples' how many sentences they are computed from.
        """
        overlaps = self._drop_copies([SampleOverlap(*result) for result in results])
        if self.output_dir is not None:
            _report_repeated_names(overlaps)
        if self.format_only:
            print_log(f'{len(overlaps)} predicted masks are in {self.output_dir}', logger='current')
            return {}
        if self.output_dir is not None:
            self._write_csv(self.output_dir, overlaps, self.sample_ious(overlaps).tolist())
        scores, num_samples = self.scores_of(overlaps)
        table = PrettyTable([*scores, 'samples'])
        table.add_row([*(f'{score:.2f}' for score in scores.values()), num_samples])
        print_log(f'referring segmentation in percent ({self.note}):\n{table.get_string()}', logger='current')
        return {**scores, 'samples': num_samples}

    def sample_ious(self, overlaps: Sequence[SampleOverlap]) -> torch.Tensor:
        """IoU of each sample, (B,) float64, as the means count it.

        Args:
            overlaps: The samples.
        """
        ious = sample_iou(*counts_of(overlaps))
        if self.empty_target == 'one':
            both_empty = [not (overlap.has_target or overlap.has_prediction) for overlap in overlaps]
            ious[torch.tensor(both_empty, dtype=torch.bool)] = 1
        return ious

    def scores_of(self, overlaps: Sequence[SampleOverlap]) -> tuple[dict[str, float], int]:
        """Scores in percent by name, and of how many samples.

        Args:
            overlaps: Each sample once.

        Raises:
            ValueError: If none is left.
        """
        empty = [overlap for overlap in overlaps if not overlap.has_target]
        if empty:
            done = dict(zero='they count as IoU 0', one='an empty prediction is IoU 1', ignore='they are left out')
            print_log(
                f'{len(empty)} of {len(overlaps)} samples have no foreground in the ground truth; '
                f'{done[self.empty_target]} (empty_target={self.empty_target!r}). The first is {empty[0].name}.',
                logger='current',
                level=logging.WARNING,
            )
        if self.empty_target == 'ignore':
            overlaps = [overlap for overlap in overlaps if overlap.has_target]
            if not overlaps:
                raise ValueError('RefSegMetric has nothing to evaluate: no sample has a target (empty_target="ignore")')
        ious = self.sample_ious(overlaps)
        scores: dict[str, float] = {}
        for name in self.metrics:
            if METRIC_NAMES[name] == 'oIoU':
                scores[name] = 100 * overall_iou(*counts_of(overlaps))
            elif METRIC_NAMES[name] == 'mIoU':
                scores[name] = 100 * mean_of(ious)
            else:
                for threshold in self.thresholds:
                    scores[f'Pr@{threshold:g}'] = 100 * share_of(ious > threshold)
        return scores, len(overlaps)

    def _drop_copies(self, overlaps: list[SampleOverlap]) -> list[SampleOverlap]:
        """Each sample once, in the order collected."""
        num_expected = len(overlaps) if self._num_expected is None else self._num_expected
        first_of: dict[tuple, SampleOverlap] = {}
        for overlap in overlaps:
            if overlap.key is not None:
                first_of.setdefault(overlap.key, overlap)
        if any(overlap.key is None for overlap in overlaps):
            if len(overlaps) > num_expected:
                print_log(
                    f'Some samples carry no `sample_idx`, so the last {len(overlaps) - num_expected} of '
                    f'{len(overlaps)} results are taken for copies. Name `sample_idx` in the meta_keys '
                    'of PackSegInputs for exact scores.',
                    logger='current',
                    level=logging.WARNING,
                )
            return overlaps[:num_expected]
        distinct = list(first_of.values())
        if len(distinct) != num_expected:
            print_log(
                f'The data set has {num_expected} samples, but {len(distinct)} different ones were evaluated.',
                logger='current',
                level=logging.WARNING,
            )
        return distinct

    def _write_csv(self, folder: str, overlaps: list[SampleOverlap], ious: list[float]) -> None:
        # A loop over several splits puts each one's name into the prefix.
        ending = f'_{self.prefix.replace("/", "_")}' if self.prefix else ''
        path = osp.join(folder, f'sentences{ending}.csv')
        with open(path, 'w', newline='', encoding='utf-8') as file:
            writer = csv.writer(file)
            decided = any(overlap.no_target_score is not None for overlap in overlaps)
            columns = ['name', 'expression', 'intersection', 'union', 'iou', 'image']
            writer.writerow([*columns, 'no_target_score'] if decided else columns)
            for overlap, iou in zip(overlaps, ious):
                numbers = overlap.intersection, overlap.union, f'{100 * iou:.2f}'
                row = [overlap.name, overlap.expression, *numbers, overlap.image]
                score = '' if overlap.no_target_score is None else f'{overlap.no_target_score:.6f}'
                writer.writerow([*row, score] if decided else row)

    @staticmethod
    def _mask_of(data_sample: Mapping[str, Any], field: str, remedy: str) -> torch.Tensor:
        if data_sample.get(field) is None:
            raise KeyError(f'{_describe(data_sample)} has no `{field}`: {remedy}')
        mask = torch.as_tensor(data_sample[field]['data'])
        # (1, H, W), the layout of MMSegmentation; `squeeze()` would also eat an image's own side of one
        # pixel.
        return mask[0] if mask.ndim == 3 and len(mask) == 1 else mask


def counts_of(overlaps: Sequence[SampleOverlap]) -> tuple[torch.Tensor, torch.Tensor]:
    """Intersections and unions of samples, each (B,)."""
    return (
        torch.tensor([overlap.intersection for overlap in overlaps], dtype=torch.long),
        torch.tensor([overlap.union for overlap in overlaps], dtype=torch.long),
    )


def _report_repeated_names(overlaps: Sequence[SampleOverlap]) -> None:
    """Warn of masks that took each other's place; :class:`RefCocoDataset` gives names that do not repeat."""
    repeated = [name for name, count in Counter(overlap.name for overlap in overlaps).items() if count > 1]
    if repeated:
        print_log(
            f'{len(repeated)} names of masks belong to several sentences, of which the last written is there. The '
            f'first is {repeated[0]}. Let the data set give each record a "sample_name".',
            logger='current',
            level=logging.WARNING,
        )


def _describe(data_sample: Mapping[str, Any]) -> str:
    """The sample in words, for an error message."""
    fields = ('img_path', 'sample_idx', 'sent_id', 'expression')
    known = [f'{field} {data_sample[field]!r}' for field in fields if data_sample.get(field) is not None]
    return f'The sample with {", ".join(known)}' if known else 'A sample without meta information'


__all__ = ['RefSegMetric', 'SampleOverlap', 'counts_of', 'sample_key', 'sample_name']
