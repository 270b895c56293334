"""MixedRefDataset: several data sets as one, without images that any of them tests on."""

import pytest
from mmengine.dataset import BaseDataset, ConcatDataset
from mmengine.registry import init_default_scope

from mmetris.datasets import MixedRefDataset, RefCocoDataset, mixed
from mmetris.registry import DATASETS
from tests.toy_refer import write_toy_refer


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmetris')


@pytest.fixture
def roots(tmp_path):
    """Two trees of the same images; what the first trains on (image 11) the second tests on, and the reverse (13)."""

    def swap(instances, refs):
        for ref in refs:
            ref['split'] = {11: 'test', 12: 'train', 13: 'train', 14: 'val'}[ref['image_id']]

    return [str(write_toy_refer(tmp_path / 'a')), str(write_toy_refer(tmp_path / 'b', change=swap))]


def cfg(root, **kwargs):
    return dict(type='RefCocoDataset', data_root=root, **kwargs)


def ref_ids(dataset):
    return [dataset.get_data_info(idx)['ref_id'] for idx in range(len(dataset))]


def test_images_to_test_on_are_left_out_of_every_part(roots):
    dataset = DATASETS.build(dict(type='MixedRefDataset', datasets=[cfg(root) for root in roots]))
    # Of the first, image 11 goes (test in the second); of the second, image 13 goes (val in the first).
    assert ref_ids(dataset) == [3, 4, 3, 4]


def test_a_data_set_alone_keeps_its_training_images_unless_another_is_tested_on(roots):
    assert ref_ids(MixedRefDataset([cfg(roots[0])])) == [1, 2, 3, 4]
    assert ref_ids(MixedRefDataset([cfg(roots[0])], leave_out=[cfg(roots[1])])) == [3, 4]


def test_images_shared_by_train_and_val_of_one_set_are_left_out(tmp_path):
    def share(instances, refs):
        refs[4].update(image_id=12, ann_id=103)  # the val object now lies on a training image

    assert ref_ids(MixedRefDataset([cfg(str(write_toy_refer(tmp_path, change=share)))])) == [1, 2]


def test_what_was_left_out_is_logged(roots, monkeypatch):
    messages = []
    monkeypatch.setattr(mixed, 'print_log', lambda message, **kwargs: messages.append(message))
    MixedRefDataset([cfg(root) for root in roots])
    assert [message[:22] for message in messages] == ['2 of 4 samples of spli', '1 of 3 samples of spli']


def test_samples_have_numbers_of_their_own(roots):
    dataset = MixedRefDataset([cfg(root) for root in roots])
    assert [dataset[idx]['sample_idx'] for idx in range(len(dataset))] == [0, 1, 2, 3]
    assert dataset.get_data_info(-1)['sample_idx'] == 3


def test_the_epoch_reaches_all_parts(roots):
    dataset = MixedRefDataset([cfg(root) for root in roots])
    dataset.set_epoch(4)
    assert [part._epoch.value for part in dataset.datasets] == [4, 4]


def test_reading_waits_for_full_init_when_lazy(roots):
    dataset = MixedRefDataset([cfg(root) for root in roots], lazy_init=True)
    assert not any(part._fully_initialized for part in dataset.datasets)
    assert dataset.metainfo['classes'] == ('background', 'referred object')
    dataset.full_init()
    dataset.full_init()
    assert len(dataset) == 4


def test_sentences_as_samples_and_instances_can_be_mixed(roots):
    dataset = MixedRefDataset([RefCocoDataset(roots[0], text_mode='original'), cfg(roots[1])])
    assert ref_ids(dataset) == [3, 4, 4, 3, 4]


def test_the_plain_concatenation_of_mmengine_takes_our_data_sets(roots):
    assert len(ConcatDataset([cfg(root) for root in roots])) == 7


def test_other_data_sets_and_empty_results_are_refused(roots):
    with pytest.raises(TypeError, match='RefCocoDataset, but got BaseDataset'):
        MixedRefDataset([BaseDataset(lazy_init=True)])
    with pytest.raises(ValueError, match="Every image of split 'val'"):
        MixedRefDataset([cfg(roots[0], split='val')])
