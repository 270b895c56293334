"""Whole pipelines through the registry: ETRIS's own, and MMSeg's standard ones run verbatim."""

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope

from mmetris.datasets import RefCocoDataset, letterbox_mask
from mmetris.datasets.transforms import Letterbox, PackSegInputs
from mmetris.structures import RefDataSample
from tests.toy_refer import decode, segmentations, write_toy_refer


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return str(write_toy_refer(tmp_path_factory.mktemp('refer')))


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmetris')


def sample_of(root, pipeline, idx=0, **kwargs):
    item = RefCocoDataset(root, text_mode='original', pipeline=[dict(type='LoadImageFromFile'), *pipeline], **kwargs)[
        idx
    ]
    return item['inputs'], item['data_samples']


LOAD, PACK, TOKENIZE = dict(type='LoadAnnotations'), dict(type='PackSegInputs'), dict(type='TokenizeExpression')


class TestETRIS:
    def test_training_letterboxes_image_and_mask(self, root):
        image, sample = sample_of(root, [LOAD, dict(type='Letterbox', size=(32, 32)), TOKENIZE, PACK])
        assert image.dtype == torch.uint8 and image.shape == (3, 32, 32)
        expected = letterbox_mask(decode(segmentations()[101], 48, 64), (32, 32))
        np.testing.assert_array_equal(sample.gt_sem_seg.data[0].numpy(), expected)
        # 64 x 48 to 32 x 24: four rows of border above and below, in CLIP's mean colour.
        assert sample.letterbox == (0.5, 0, 4)
        assert image[:, 0, 0].tolist() == [104, 117, 123]

    def test_testing_keeps_the_truth_at_original_size(self, root):
        image, sample = sample_of(root, [dict(type='Letterbox', size=32), LOAD, TOKENIZE, PACK], test_mode=True)
        assert image.shape == (3, 32, 32) and sample.img_shape == (32, 32) and sample.ori_shape == (48, 64)
        np.testing.assert_array_equal(sample.gt_mask.numpy(), decode(segmentations()[101], 48, 64) == 1)

    def test_a_sample_knows_where_it_comes_from(self, root):
        _, sample = sample_of(root, [dict(type='Letterbox', size=32), LOAD, TOKENIZE, PACK], idx=4)
        assert type(sample) is RefDataSample
        assert (sample.sample_idx, sample.img_id, sample.ref_id, sample.ann_id, sample.sent_id) == (4, 11, 2, 102, 21)
        assert sample.expression == 'the bars on the right' and sample.tokens.shape == (17,)

    def test_samples_collate_as_mmseg_s(self, root):
        dataset = RefCocoDataset(
            root, pipeline=[dict(type='LoadImageFromFile'), dict(type='Letterbox', size=32), LOAD, TOKENIZE, PACK]
        )
        batch = pseudo_collate([dataset[0], dataset[1]])
        assert len(batch['inputs']) == len(batch['data_samples']) == 2

    def test_a_label_map_needs_nearest_interpolation(self):
        results = dict(
            img=np.zeros((8, 8, 3), np.uint8), gt_seg_map=np.full((8, 8), 7, np.uint8), seg_fields=['gt_seg_map']
        )
        with pytest.raises(ValueError, match="interpolation='nearest'"):
            Letterbox(size=16)(dict(results))
        assert Letterbox(size=16, mask_interpolation='nearest')(results)['gt_seg_map'][4, 4] == 7

    @pytest.mark.parametrize('size', [0, (4, -1), (4, 4, 4)])
    def test_an_impossible_size_is_refused(self, size):
        with pytest.raises(ValueError, match='positive numbers'):
            Letterbox(size=size)


class TestMMSeg:
    def test_resizing_that_keeps_the_ratio(self, root):
        image, sample = sample_of(
            root, [dict(type='Resize', scale=(128, 96), keep_ratio=True), LOAD, PACK], test_mode=True
        )
        assert image.shape == (3, 96, 128) and sample.scale_factor == (2, 2) and 'letterbox' not in sample
        assert sample.gt_mask.shape == (48, 64) and sample.expression == 'the left square' and 'tokens' not in sample

    def test_training_with_scaling_cropping_flipping_and_distortion(self, root):
        image, sample = sample_of(
            root,
            [
                LOAD,
                dict(type='RandomResize', scale=(128, 96), ratio_range=(0.8, 1.2), keep_ratio=True),
                dict(type='RandomCrop', crop_size=(32, 32)),
                dict(type='RandomFlip', prob=1.0, direction='horizontal'),
                dict(type='FlipExpression'),
                TOKENIZE,
                dict(type='PhotoMetricDistortion'),
                PACK,
            ],
        )
        assert image.shape == (3, 32, 32) and sample.gt_mask.shape == (32, 32)
        assert sample.expression == 'the right square'
        assert sample.tokens.tolist()[2] == 1155  # 'right'

    def test_flipping_mirrors_the_mask_with_the_image(self, root):
        plain = sample_of(root, [LOAD, PACK])
        flipped = sample_of(root, [LOAD, dict(type='RandomFlip', prob=1.0), PACK])
        assert torch.equal(flipped[0], plain[0].flip(-1)) and torch.equal(flipped[1].gt_mask, plain[1].gt_mask.flip(-1))
        assert flipped[1].flip and flipped[1].flip_direction == 'horizontal'

    def test_test_time_augmentation(self, root):
        images, samples = sample_of(
            root,
            [
                dict(
                    type='TestTimeAug',
                    transforms=[
                        [dict(type='Resize', scale_factor=factor, keep_ratio=True) for factor in (0.5, 1.0)],
                        [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)],
                        [LOAD],
                        [dict(type='FlipExpression')],
                        [TOKENIZE],
                        [PACK],
                    ],
                )
            ],
            test_mode=True,
        )
        assert [tuple(image.shape[1:]) for image in images] == [(24, 32), (24, 32), (48, 64), (48, 64)]
        assert [sample.expression for sample in samples] == ['the left square', 'the right square'] * 2
        # The truth is not flipped: predictions are brought back before they are merged.
        assert all(torch.equal(sample.gt_mask, samples[0].gt_mask) for sample in samples)

    def test_meta_keys_add_to_what_a_referring_sample_needs(self, root):
        _, sample = sample_of(
            root,
            [dict(type='Letterbox', size=32), LOAD, dict(type='PackSegInputs', meta_keys=('ori_shape', 'category_id'))],
        )
        assert sample.category_id == 101 % 3 and sample.letterbox == (0.5, 0, 4) and 'img_path' not in sample


def test_samples_of_other_mmseg_data_sets_are_packed_too():
    packed = PackSegInputs()(
        dict(img=np.zeros((4, 5, 3), np.uint8), gt_seg_map=np.ones((4, 5), np.uint8), ori_shape=(4, 5))
    )
    assert packed['inputs'].shape == (3, 4, 5)
    assert packed['data_samples'].gt_sem_seg.data.shape == (1, 4, 5) and 'expression' not in packed['data_samples']


def test_every_transform_prints_its_settings():
    from mmetris.datasets.transforms import FlipExpression, TokenizeExpression

    for transform in (Letterbox(), TokenizeExpression(), FlipExpression(), PackSegInputs()):
        assert repr(transform).startswith(type(transform).__name__ + '(')
