"""Whether the classes of the data are those that the model looks for."""

from __future__ import annotations

import logging

from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmetris.engine.unwrapping import model_of
from mmetris.registry import HOOKS
from mmetris.structures.vocabulary import Vocabulary


@HOOKS.register_module()
class VocabularyCheckHook(Hook):
    """Compare the vocabulary of a :class:`ClassNameSegmentor` with the data sets' classes before anything is computed.

    Labels are numbers, so another list of classes would train and score without complaint, and wrongly. A data set
    whose classes are fewer, more or in another order is an error; one that calls a class by another name is not, as
    names are often reworded for CLIP, but it is logged. Models without a vocabulary are left alone.

    Raises:
        ValueError: If the labels of a data set do not mean what the vocabulary says; names both.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        self._check(runner, 'train', runner.train_dataloader)
        if runner.val_loop is not None:
            self._check(runner, 'val', runner.val_dataloader)

    def before_val(self, runner: Runner) -> None:
        self._check(runner, 'val', runner.val_dataloader)

    def before_test(self, runner: Runner) -> None:
        self._check(runner, 'test', runner.test_dataloader)

    @staticmethod
    def _check(runner: Runner, phase: str, dataloader: DataLoader) -> None:
        model = model_of(runner)
        model = getattr(model, 'module', model)  # test-time augmentation wraps once more
        vocabulary: Vocabulary | None = getattr(model, 'vocabulary', None)
        dataset: BaseDataset = dataloader.dataset
        classes = dataset.metainfo.get('classes')
        if vocabulary is None or classes is None:
            return
        problem, differing = vocabulary.mismatch(classes)
        if problem is not None:
            raise ValueError(f'{phase}_dataloader and model.vocabulary do not fit: {problem}')
        if differing and phase != 'val':
            print_log(
                f'{len(differing)} classes are named otherwise in the {phase} data: {"; ".join(differing[:5])}',
                logger='current',
                level=logging.WARNING,
            )
