"""Trainings whose loss becomes NaN or Inf: real runs of MMEngine's Runner, in this process and in two."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmetris.engine.hooks import FiniteLossHook
from mmetris.registry import DATASETS, MODELS
from mmetris.structures import RefDataSample
from mmetris.utils.checkpoint_io import NonFiniteLossError, check_finite
from tests.forked_process import kill_test

ROOT = Path(__file__).parents[2]


@DATASETS.register_module()
class FiniteLossToyDataset(BaseDataset):
    """Numbers 0, 1, ...; those of ``broken`` are NaN."""

    def __init__(self, broken=(), length=8, **kwargs):
        self.broken, self.length = broken, length
        super().__init__(**kwargs)

    def load_data_list(self):
        return [dict(number=index) for index in range(self.length)]

    def prepare_data(self, idx):
        value = float('nan') if idx in self.broken else float(idx)
        sample = RefDataSample(metainfo=dict(img_path=f'{idx}.jpg', expression=f'number {idx}'))
        return dict(inputs=torch.full((4,), value), data_samples=sample)


@MODELS.register_module()
class FiniteLossToyModel(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)
        nn.init.constant_(self.layer.weight, 0.1)
        nn.init.zeros_(self.layer.bias)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return dict(loss=self.layer(torch.stack(inputs) / 10).square().mean())


def build_runner(work_dir, broken=(), lr=0.01, hook=None, launcher='none', accumulate=1, **kwargs):
    return Runner(
        MODELS.build(dict(type='FiniteLossToyModel')),
        str(work_dir),
        train_cfg=dict(by_epoch=True, max_epochs=1, **kwargs),
        train_dataloader=dict(
            batch_size=1 if launcher != 'none' else 2,
            num_workers=0,
            dataset=dict(type='FiniteLossToyDataset', broken=broken),
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=lr), accumulative_counts=accumulate),
        default_hooks=dict(
            checkpoint=dict(type='AtomicCheckpointHook', interval=1), logger=dict(type='LoggerHook', interval=1)
        ),
        custom_hooks=[dict(type='FiniteLossHook', **(hook or {}))],
        launcher=launcher,
        cfg=dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel', device_ids=None)),
        default_scope='mmetris',
        experiment_name=f'finite_{Path(work_dir).parent.name}_{Path(work_dir).name}',
    )


def train(work_dir, **kwargs):
    runner = build_runner(work_dir, **kwargs)
    runner.train()
    return torch.cat([value.flatten() for value in runner.model.state_dict().values()]), runner


def test_the_error_names_step_rate_image_and_sentence_before_the_weights_are_changed(tmp_path):
    runner = build_runner(tmp_path / 'run', broken=[5])
    with pytest.raises(NonFiniteLossError) as caught:
        runner.train()
    message = str(caught.value)
    assert message.startswith('The loss of epoch 1, iteration 3 is nan; learning rate 0.01. Batch of this process: ')
    assert '4.jpg "number 4"; 5.jpg "number 5". Nothing of it was saved' in message
    assert "FiniteLossHook(policy='skip')" in message and 'Weights' not in message
    assert all(torch.isfinite(value).all() for value in runner.model.state_dict().values())
    assert not list((tmp_path / 'run').glob('*.pth'))


def test_a_learning_rate_that_ruins_the_weights_is_said_to_be_too_high(tmp_path):
    with pytest.raises(NonFiniteLossError, match=r'learning rate 1e\+20.*Weights that are not finite: layer\.bias'):
        train(tmp_path / 'run', lr=1e20, broken=[], hook=dict(policy='skip', patience=2))
    assert not list((tmp_path / 'run').glob('*.pth'))


def test_weights_ruined_by_the_last_step_are_not_saved(tmp_path):
    runner = build_runner(tmp_path / 'run')
    runner.train()
    saved = torch.load(tmp_path / 'run/epoch_1.pth', weights_only=False)['state_dict']
    check_finite(saved, 'epoch_1.pth')
    with torch.no_grad():
        runner.model.layer.bias.fill_(float('inf'))
    with pytest.raises(NonFiniteLossError, match='after iteration 4 are not saved.*: layer.bias; learning'):
        runner.save_checkpoint(str(tmp_path / 'run'), 'epoch_2.pth')
    assert not (tmp_path / 'run/epoch_2.pth').exists()


@pytest.mark.parametrize('accumulate', [1, 2])
def test_a_batch_left_out_is_as_if_it_were_not_there(tmp_path, accumulate):
    """Also among gradients that are gathered over two batches."""
    weights, runner = train(tmp_path / 'run', broken=[5], hook=dict(policy='skip'), accumulate=accumulate)
    plain = FiniteLossToyModel()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.01)
    steps = [[0, 1], [2, 3], [6, 7]]
    for count, numbers in enumerate(steps, 1):
        loss = plain([torch.full((4,), float(number)) for number in numbers])['loss'] / accumulate
        loss.backward()
        if count % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
    expected = torch.cat([value.flatten() for value in plain.state_dict().values()])
    assert torch.allclose(weights, expected, atol=1e-7)
    (log,) = (tmp_path / 'run').glob('*/*.log')
    assert '4.jpg "number 4"; 5.jpg "number 5". It is left out, the 1. of this run' in log.read_text()
    (scalars,) = (tmp_path / 'run').glob('*/vis_data/scalars.json')
    losses = [json.loads(line)['loss'] for line in scalars.read_text().splitlines()]
    assert len(losses) == 4 and all(loss == loss for loss in losses)
    assert 'update_params' not in vars(runner.optim_wrapper)


def test_batches_are_left_out_until_patience_ends(tmp_path):
    with pytest.raises(NonFiniteLossError, match='iteration 3 is nan.* 2 batches before it were left out, too'):
        train(tmp_path / 'run', broken=range(8), hook=dict(policy='skip', patience=2))
    train(tmp_path / 'other', broken=[0, 4], hook=dict(policy='skip', patience=1))  # Not in a row.


@pytest.mark.parametrize('arguments, name', [(dict(policy='ignore'), 'policy'), (dict(patience=0), 'patience')])
def test_arguments_without_such_a_value_are_refused(arguments, name):
    with pytest.raises(ValueError, match=name):
        FiniteLossHook(**arguments)


def test_sharded_models_are_not_left_half_way(tmp_path):
    runner = build_runner(tmp_path / 'run', hook=dict(policy='skip'))
    runner.model.__class__ = type('MMFullyShardedDataParallel', (FiniteLossToyModel,), {})
    with pytest.raises(ValueError, match='does not go with MMFullyShardedDataParallel'):
        runner.train()


@pytest.mark.processes
def test_two_processes_leave_out_the_same_batches(tmp_path):
    """Sample 5 is the second process's; without the agreement the first would wait for its gradients."""

    def one():
        rank = int(os.environ['RANK'])
        torch.distributed.init_process_group('gloo')
        runner = build_runner(tmp_path / 'run', broken=[5], hook=dict(policy='skip'), launcher='pytorch')
        runner.train()
        torch.save(runner.model.module.state_dict(), tmp_path / f'{rank}.pth')

    log = tmp_path / 'log.txt'
    assert kill_test.wait(kill_test.start(one, log, processes=2)), log.read_text()
    first, second = (torch.load(tmp_path / f'{rank}.pth') for rank in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    weights, _ = train(tmp_path / 'one', broken=[5], hook=dict(policy='skip'))  # The same batches of two.
    assert torch.allclose(torch.cat([value.flatten() for value in first.values()]), weights, atol=1e-7)
    assert 'is of another process' in log.read_text()
