"""A training of a second in MMEngine's Runner, whose scores are known: rising, falling, and rising at the very end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmetris.registry import DATASETS, METRICS, MODELS

SCORES = (0.3, 0.64, 0.2, 0.7)  # Of each epoch; the best one is saved when no other checkpoint is to come.
STEPS = 2  # Iterations in an epoch.


@DATASETS.register_module()
class CheckpointToyDataset(BaseDataset):
    """Numbers."""

    def load_data_list(self) -> list[dict]:
        return [dict(number=index) for index in range(2 * STEPS)]

    def prepare_data(self, idx: int) -> dict:
        return dict(inputs=torch.full((4,), float(idx)))


@MODELS.register_module()
class CheckpointToyModel(BaseModel):
    """Two layers and a count of its steps, of some 100 KB, since smaller files could hide in the log's allowance."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        for parameter in self.layers.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
        self.register_buffer('steps', torch.zeros((), dtype=torch.long))
        self.register_buffer('ballast', torch.zeros(25_000))

    def forward(self, inputs: list, data_samples: Any = None, mode: str = 'tensor') -> Any:
        if mode == 'loss':
            self.steps += 1
            return dict(loss=self.layers(torch.stack(inputs) / 10).square().mean())
        return [self.steps.item()]


@METRICS.register_module()
class CheckpointToyMetric(BaseMetric):
    """The score that belongs to the number of steps, under two names."""

    default_prefix = None

    def process(self, data_batch: Any, data_samples: list) -> None:
        self.results.append(data_samples[0])

    def compute_metrics(self, results: list) -> dict[str, float]:
        return dict.fromkeys(('mIoU', 'lowest'), SCORES[results[0] // STEPS - 1])


def build_runner(
    work_dir: Path,
    epochs: int = 4,
    by_epoch: bool = True,
    resume: bool = False,
    name: str | None = None,
    **changes: Any,
) -> Runner:
    """A runner of the training.

    Args:
        work_dir: The work folder.
        epochs: How many, or the iterations of as many.
        by_epoch: Whether it counts epochs.
        resume: Whether it goes on from the work folder.
        name: Name of the experiment, one for each runner of a process.
        **changes: Arguments of ``AtomicCheckpointHook``.
    """
    unit = 1 if by_epoch else STEPS
    length = dict(by_epoch=True, max_epochs=epochs) if by_epoch else dict(by_epoch=False, max_iters=STEPS * epochs)
    loader = dict(batch_size=2, num_workers=0, dataset=dict(type='CheckpointToyDataset'))
    sampler = dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True)
    settings = dict(interval=unit, by_epoch=by_epoch, max_keep_ckpts=1, save_best='mIoU', rule='greater') | changes
    return Runner(
        MODELS.build(dict(type='CheckpointToyModel')),
        str(work_dir),
        train_cfg=length | dict(val_interval=unit),
        val_cfg={},
        train_dataloader=dict(loader, sampler=sampler),
        val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
        val_evaluator=dict(type='CheckpointToyMetric'),
        optim_wrapper=dict(optimizer=dict(type='Adam', lr=0.01)),
        default_hooks=dict(
            logger=dict(type='LoggerHook', log_metric_by_epoch=by_epoch),
            checkpoint=dict(type='AtomicCheckpointHook', **settings),
        ),
        log_processor=dict(by_epoch=by_epoch),
        custom_hooks=[dict(type='EpochSeedHook')],
        randomness=dict(seed=7),
        resume=resume,
        default_scope='mmetris',
        experiment_name=name or f'{work_dir.name}_{by_epoch}_{epochs}_{resume}',
    )
