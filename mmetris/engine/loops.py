"""The test loop that scores several splits of one data set, each under its own name."""

from __future__ import annotations

import copy
import os.path as osp
from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import Evaluator
from mmengine.runner import Runner, TestLoop
from mmengine.utils import mkdir_or_exist

from mmetris.registry import LOOPS


def with_split(dataloader: dict, split: str) -> dict:
    """A copy of a data loader's config that reads another split.

    Args:
        dataloader: Config of a data loader whose ``dataset`` has the key ``split``.
        split: Name of the split.

    Raises:
        KeyError: If the data set's config names no split.
    """
    if 'split' not in dataloader.get('dataset', {}):
        raise KeyError('test_dataloader.dataset has no "split", so no other split of it can be tested')
    dataloader = copy.deepcopy(dataloader)
    dataloader['dataset']['split'] = split
    return dataloader


@LOOPS.register_module()
class SplitTestLoop(TestLoop):
    """Test the splits of one data set after each other.

    Every score is named by its split (``testA/mIoU``) in the log, in the dumped JSON and in what ``run`` returns.
    All data sets are built first, so that a split which does not exist is an error before the first is scored. With
    several splits, a metric that writes files gets a folder for each.

    Args:
        runner: The runner.
        dataloader: Config of the test data loader; its data set's ``split`` is replaced.
        evaluator: Metrics, as in MMEngine's ``TestLoop``; computed for each split separately.
        splits: Names of the splits, in the order of testing.
        fp16: Autocast to half precision. Defaults to False.

    Raises:
        ValueError: If ``splits`` is empty or ``dataloader`` is no config.
        KeyError: If the data set's config names no split.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: dict,
        evaluator: Evaluator | dict | list,
        splits: Sequence[str],
        fp16: bool = False,
    ) -> None:
        if isinstance(splits, str) or not splits:
            raise ValueError(f'test_cfg.splits is a list of at least one split, but got {splits!r}')
        if not isinstance(dataloader, dict):
            raise ValueError('SplitTestLoop builds one data loader for each split, so it needs a config of one')
        first, *others = splits
        super().__init__(runner, with_split(dataloader, first), evaluator, fp16)
        self.dataloaders: dict[str, Any] = {first: self.dataloader}
        for split in others:
            # MMEngine's loop knows how a runner seeds its loaders.
            self.dataloaders[split] = TestLoop(runner, with_split(dataloader, split), self.evaluator).dataloader

    def run(self) -> dict[str, float]:
        """Test every split.

        Returns:
            Scores by ``<split>/<name>``.
        """
        scores = {}
        metrics = self.evaluator.metrics
        settings = [(metric.prefix, getattr(metric, 'output_dir', None)) for metric in metrics]
        for split, dataloader in self.dataloaders.items():
            self.dataloader = dataloader
            self.runner.logger.info(f'Testing split {split}: {len(dataloader.dataset)} samples')
            for metric, (prefix, output_dir) in zip(metrics, settings):
                metric.prefix = split if prefix is None else f'{split}/{prefix}'
                if output_dir is not None and len(self.dataloaders) > 1:
                    metric.output_dir = osp.join(output_dir, split)
                    mkdir_or_exist(metric.output_dir)
            scores.update(super().run())
        for metric, (prefix, output_dir) in zip(metrics, settings):
            metric.prefix = prefix
            if output_dir is not None:
                metric.output_dir = output_dir
        return scores
