"""A resumed run equals an uninterrupted one, bit for bit: real runs of MMEngine's Runner on a model with dropout."""

import random

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, ConcatDataset, InfiniteSampler, RepeatDataset
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import nn

from mmetris.engine import EpochSeedHook
from mmetris.engine.hooks.epoch_seed_hook import set_dataset_epoch
from mmetris.registry import DATASETS, HOOKS, MODELS
from mmetris.utils.seeding import seed_everything

NUM_SAMPLES = 6


@DATASETS.register_module()
class SeedHookToyDataset(BaseDataset):
    """Items depend on the epoch (as a drawn sentence does) and, if ``noise``, on all global generators."""

    def __init__(self, noise=False, **kwargs):
        self.epoch, self.noise, self.draws = None, noise, []
        super().__init__(**kwargs)

    def load_data_list(self):
        return [dict(number=index) for index in range(NUM_SAMPLES)]

    def get_cat_ids(self, idx):
        return [0]

    def set_epoch(self, epoch):
        self.epoch = epoch

    def prepare_data(self, idx):
        self.pipeline(self.get_data_info(idx))
        drawn = (0 if self.epoch is None else self.epoch) + idx
        if self.noise:
            drawn += np.random.rand() + random.random() + torch.rand(1).item()
        self.draws.append((self.epoch, idx))
        return dict(inputs=torch.full((4,), float(drawn)))


@MODELS.register_module()
class SeedHookToyModel(BaseModel):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        for parameter in self.layers.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
        self.seen = []

    def forward(self, inputs, data_samples=None, mode='tensor'):
        self.seen += [values[0].item() % 1 for values in inputs]
        return dict(loss=self.layers(torch.stack(inputs) / 10).square().mean())


def run(work_dir, length, resume=False, hook=True, by_epoch=True, noise=False, num_workers=0, seed=7, exact=False):
    """Train for so many epochs or iterations; returns the final weights, the data set and the noise that was seen.

    ``exact``: by iterations with our sampler and transform, where others use MMEngine's.
    """
    sampler = 'DefaultSampler' if by_epoch else 'EpochInfiniteSampler' if exact else 'InfiniteSampler'
    train_cfg = dict(by_epoch=True, max_epochs=length) if by_epoch else dict(by_epoch=False, max_iters=length)
    runner = Runner(
        MODELS.build(dict(type='SeedHookToyModel')),
        str(work_dir),
        train_cfg=train_cfg,
        train_dataloader=dict(
            batch_size=2,
            num_workers=num_workers,
            dataset=dict(type='SeedHookToyDataset', noise=noise, pipeline=[dict(type='SeedSample')] if exact else []),
            sampler=dict(type=sampler, shuffle=True),
        ),
        optim_wrapper=dict(optimizer=dict(type='Adam', lr=0.01)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=by_epoch)),
        custom_hooks=[dict(type='EpochSeedHook')] if hook else [],
        randomness=dict(seed=seed),
        resume=resume,
        default_scope='mmetris',
        experiment_name=f'{work_dir.name}_{length}_{resume}',
    )
    runner.train()
    weights = nn.utils.parameters_to_vector(runner.model.parameters()).detach()
    return weights, runner.train_dataloader.dataset, runner.model.seen


def whole_and_resumed(folder, length=4, **kwargs):
    whole, *_ = run(folder / 'whole', length, **kwargs)
    run(folder / 'resumed', length // 2, **kwargs)
    resumed, *_ = run(folder / 'resumed', length, resume=True, **kwargs)
    return whole, resumed


def test_two_epochs_and_two_resumed_equal_four_uninterrupted(tmp_path):
    whole, resumed = whole_and_resumed(tmp_path, noise=True)
    assert torch.equal(whole, resumed)


def test_without_the_hook_a_resumed_run_differs(tmp_path):
    whole, resumed = whole_and_resumed(tmp_path, hook=False)
    assert not torch.allclose(whole, resumed)


@pytest.mark.processes
def test_a_resumed_run_repeats_random_transforms_in_loader_processes(tmp_path):
    whole, resumed = whole_and_resumed(tmp_path, noise=True, num_workers=2)
    assert torch.equal(whole, resumed)


@pytest.mark.parametrize('num_workers', [0, pytest.param(1, marks=pytest.mark.processes)])
def test_each_epoch_draws_other_random_numbers(num_workers, tmp_path):
    """MMEngine seeds its loader processes alike at every start, so their augmentations repeat; ours do not."""
    *_, noise = run(tmp_path, 2, noise=True, num_workers=num_workers)
    assert len(noise) == len(set(noise)) == 2 * NUM_SAMPLES


def test_a_seed_drawn_by_chance_is_taken_over_from_the_checkpoint_also_for_shuffling(tmp_path):
    whole, resumed = whole_and_resumed(tmp_path, noise=True, seed=None)
    # The uninterrupted run drew another seed; so compare two resumptions of one run.
    again, *_ = run(tmp_path / 'resumed', 5, resume=True, noise=True, seed=None)
    (tmp_path / 'resumed' / 'last_checkpoint').write_text(str(tmp_path / 'resumed' / 'epoch_4.pth'))
    once_more, *_ = run(tmp_path / 'resumed', 5, resume=True, noise=True, seed=None)
    assert torch.equal(again, once_more)
    assert not torch.equal(whole, resumed)


def test_training_by_iterations_resumes_equal_too(tmp_path):
    whole, resumed = whole_and_resumed(tmp_path, length=8, by_epoch=False)
    assert torch.equal(whole, resumed)
    without, without_resumed = whole_and_resumed(tmp_path / 'without', length=8, by_epoch=False, hook=False)
    assert not torch.equal(without, without_resumed)


@pytest.mark.parametrize('num_workers', [0, pytest.param(2, marks=pytest.mark.processes)])
def test_training_by_iterations_repeats_random_transforms_with_our_sampler(num_workers, tmp_path):
    kwargs = dict(length=8, by_epoch=False, noise=True, num_workers=num_workers)
    whole, resumed = whole_and_resumed(tmp_path, exact=True, **kwargs)
    assert torch.equal(whole, resumed)


@pytest.mark.parametrize('num_workers', [0, pytest.param(2, marks=pytest.mark.processes)])
def test_training_by_iterations_does_not_repeat_them_with_mmengines_sampler(num_workers, tmp_path):
    """What docs/data.md says. The original MMEngine reads again what was used, which brings loader processes to where
    they were, at the price of the reading."""
    kwargs = dict(length=8, by_epoch=False, noise=True, num_workers=num_workers)
    whole, resumed = whole_and_resumed(tmp_path, **kwargs)
    reads_again = not hasattr(InfiniteSampler, 'skip')
    assert torch.equal(whole, resumed) == (reads_again and num_workers > 0)


def test_each_epoch_of_a_training_by_iterations_draws_other_random_numbers(tmp_path):
    *_, noise = run(tmp_path, 2 * NUM_SAMPLES // 2, by_epoch=False, noise=True, exact=True)
    assert len(noise) == len(set(noise)) == 2 * NUM_SAMPLES


def test_the_data_set_knows_the_epoch_it_is_in_and_training_by_iterations_leaves_it_alone(tmp_path):
    _, dataset, _ = run(tmp_path / 'epochs', 3)
    assert [epoch for epoch, _ in dataset.draws] == [0] * 6 + [1] * 6 + [2] * 6
    assert len({tuple(idx for _, idx in dataset.draws[start : start + 6]) for start in (0, 6, 12)}) > 1, 'shuffled anew'
    _, dataset, _ = run(tmp_path / 'iterations', 2, by_epoch=False)
    assert {epoch for epoch, _ in dataset.draws} == {None}


@DATASETS.register_module()
class SeedHookForwardingDataset(ConcatDataset):
    """Passes epochs on itself, with a remark."""

    def set_epoch(self, epoch):
        for dataset in self.datasets:
            dataset.set_epoch(10 + epoch)


def test_the_epoch_goes_through_every_kind_of_wrapper():
    parts = [SeedHookToyDataset() for _ in range(4)]
    with DefaultScope.overwrite_default_scope('mmetris'):
        wrapped = ConcatDataset(
            [
                dict(type='RepeatDataset', dataset=parts[0], times=2),
                dict(type='ClassBalancedDataset', dataset=parts[1], oversample_thr=0.5),
                dict(type='RepeatDataset', dataset=dict(type='ConcatDataset', datasets=parts[2:]), times=2),
            ]
        )
    assert set_dataset_epoch(wrapped, 5) == 4
    assert [part.epoch for part in parts] == [5] * 4
    assert set_dataset_epoch([0, 1, 2], 5) == 0, 'a data set without epochs is left alone'


def test_a_wrapper_that_passes_epochs_on_itself_is_called_and_not_looked_into():
    part = SeedHookToyDataset()
    with DefaultScope.overwrite_default_scope('mmetris'):
        wrapped = RepeatDataset(dict(type='SeedHookForwardingDataset', datasets=[part]), times=1)
    assert set_dataset_epoch(wrapped, 2) == 1
    assert part.epoch == 12


def test_seed_everything_fixes_all_generators_and_keeps_combinations_apart():

    def draw(*numbers):
        seed_everything(*numbers)
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert draw(1, 2, 3) == draw(1, 2, 3)
    drawn = [draw(seed, epoch, rank) for seed in range(3) for epoch in range(3) for rank in range(3)]
    for values in zip(*drawn):
        assert len(set(values)) == 27


def test_processes_get_different_random_numbers(tmp_path, monkeypatch):
    weights = []
    for rank in (0, 1):
        monkeypatch.setattr('mmetris.engine.hooks.epoch_seed_hook.get_rank', lambda rank=rank: rank)
        weights.append(run(tmp_path / str(rank), 1)[0])
    assert not torch.equal(*weights)


def test_it_is_built_from_a_config_and_refuses_a_negative_seed():
    assert HOOKS.build(dict(type='EpochSeedHook', seed=3)).seed == 3
    with pytest.raises(ValueError, match='negative'):
        EpochSeedHook(seed=-1)
