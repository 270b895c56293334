"""Names of the classes, from the data to the model."""

from __future__ import annotations

from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmetris.engine.unwrapping import model_of
from mmetris.registry import HOOKS


@HOOKS.register_module()
class ClassNamesHook(Hook):
    """Let a :class:`BridgedClassifier` choose from the classes of the data that it is shown.

    Training, validation and test may have other classes each: a validation folder with classes that training never
    saw is validated on all of its own. A model whose config names the classes keeps them, and data whose labels would
    mean something else are an error.

    Raises:
        ValueError: If the data have no classes, or others than the model's config.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._told: BaseDataset | None = None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self._tell(runner, 'train', runner.train_dataloader.dataset)

    def before_val_epoch(self, runner: Runner) -> None:
        self._tell(runner, 'val', runner.val_dataloader.dataset)

    def before_test_epoch(self, runner: Runner) -> None:
        self._tell(runner, 'test', runner.test_dataloader.dataset)

    def _tell(self, runner: Runner, phase: str, dataset: BaseDataset) -> None:
        if dataset is self._told:
            return
        self._told = dataset
        classes = dataset.metainfo.get('classes')
        if not classes:
            raise ValueError(f'the data set of {phase}_dataloader has no classes in its metainfo')
        model = model_of(runner)
        if model.names_follow_data:
            model.set_vocabulary(dict(classes=list(classes)))
        elif problem := model.vocabulary.mismatch(classes)[0]:
            raise ValueError(f'{phase}_dataloader and model.vocabulary do not fit: {problem}')
