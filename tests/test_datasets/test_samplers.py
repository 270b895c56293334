"""Indices with their epoch: the order of MMEngine's sampler, kept through wrappers and into loader processes."""

import copy
import itertools
import pickle
import random

import numpy as np
import pytest
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.registry import DefaultScope

from mmetris.datasets.samplers import EpochIndex, EpochInfiniteSampler
from mmetris.registry import DATA_SAMPLERS, DATASETS, TRANSFORMS
from tests.toy_refer import write_toy_refer

SIZE = 5


def first(sampler, count=3 * SIZE):
    return list(itertools.islice(iter(sampler), count))


@pytest.mark.parametrize('shuffle', [True, False])
@pytest.mark.parametrize('rank, world_size', [(0, 1), (0, 2), (1, 2), (2, 3)])
def test_the_order_is_that_of_mmengines_sampler_for_every_process(shuffle, rank, world_size, monkeypatch):
    for module in ('mmengine.dataset.sampler', 'mmetris.datasets.samplers'):
        monkeypatch.setattr(f'{module}.get_dist_info', lambda: (rank, world_size))
    sampler = EpochInfiniteSampler(range(SIZE), shuffle=shuffle, seed=3)
    drawn = first(sampler)
    assert drawn == first(InfiniteSampler(range(SIZE), shuffle=shuffle, seed=3))
    places = [rank + number * world_size for number in range(len(drawn))]
    assert [index.epoch for index in drawn] == [place // SIZE for place in places]
    sampler.skip(4)
    skipped = first(sampler)
    assert [(index, index.epoch) for index in skipped[: len(drawn) - 4]] == [(one, one.epoch) for one in drawn[4:]]
    assert len(sampler) == SIZE


def test_every_pass_has_each_sample_once_in_another_order():
    drawn = first(EpochInfiniteSampler(range(SIZE), seed=0))
    passes = [[int(index) for index in drawn if index.epoch == epoch] for epoch in range(3)]
    assert all(sorted(order) == list(range(SIZE)) for order in passes)
    assert len(set(map(tuple, passes))) > 1


def test_it_is_built_from_a_config_and_refuses_to_skip_backwards():
    sampler = DATA_SAMPLERS.build(dict(type='EpochInfiniteSampler', dataset=range(SIZE), shuffle=False))
    assert first(sampler, 2) == [0, 1]
    with pytest.raises(ValueError, match='negative'):
        sampler.skip(-1)


@pytest.mark.parametrize('copied', [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_an_index_keeps_its_epoch_when_copied_and_sent(copied):
    index = copied(EpochIndex(4, 2))
    assert index == 4 and isinstance(index, int) and index.epoch == 2


def test_an_index_keeps_its_epoch_in_what_wrappers_do():
    index = EpochIndex(7, 2)
    assert [(int(one), one.epoch) for one in (index % 5, index - 3, index + 1)] == [(2, 2), (4, 2), (8, 2)]


def sentences(dataset, epoch):
    """Those drawn in an epoch, after the global state was left anywhere."""
    np.random.seed(np.random.default_rng().integers(2**31))
    return [dataset[EpochIndex(index, epoch)]['expression'] for index in range(len(dataset))]


@pytest.mark.parametrize('wrapper', ['none', 'RepeatDataset', 'ConcatDataset', 'MixedRefDataset'])
def test_sentences_follow_from_the_epoch_of_the_index_through_wrappers(wrapper, tmp_path):
    inner = dict(type='RefCocoDataset', data_root=str(write_toy_refer(tmp_path)), split='train', pipeline=[])
    config = dict(
        none=inner,
        RepeatDataset=dict(type='RepeatDataset', dataset=inner, times=2),
        ConcatDataset=dict(type='ConcatDataset', datasets=[inner, inner]),
        MixedRefDataset=dict(type='MixedRefDataset', datasets=[inner, inner]),
    )[wrapper]
    with DefaultScope.overwrite_default_scope('mmetris'):
        dataset = DATASETS.build(config)
    drawn = [sentences(dataset, epoch) for epoch in range(6)]
    assert drawn == [sentences(dataset, epoch) for epoch in range(6)]
    assert len(set(map(tuple, drawn))) > 1
    if wrapper == 'none':
        for epoch in range(6):
            dataset.set_epoch(epoch)
            assert [dataset[index]['expression'] for index in range(len(dataset))] == drawn[epoch], 'as by epochs'


def test_seed_sample_fixes_all_generators_by_seed_epoch_and_sample():
    def draw(seed, epoch, index):
        TRANSFORMS.build(dict(type='SeedSample', seed=seed))(dict(sample_idx=EpochIndex(index, epoch)))
        return random.random(), np.random.rand(), torch.rand(1).item()

    combinations = list(itertools.product(range(3), repeat=3))
    drawn = [draw(*numbers) for numbers in combinations]
    assert drawn == [draw(*numbers) for numbers in combinations]
    for values in zip(*drawn):
        assert len(set(values)) == 27


def test_seed_sample_says_which_sampler_it_needs():
    with pytest.raises(TypeError, match="sampler.type to 'EpochInfiniteSampler'"):
        TRANSFORMS.build(dict(type='SeedSample'))(dict(sample_idx=3))
    with pytest.raises(ValueError, match='negative'):
        TRANSFORMS.build(dict(type='SeedSample', seed=-1))
