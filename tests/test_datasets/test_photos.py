"""The four real photographs with our own expressions, where the folder exists."""

import os
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import init_default_scope

from mmetris.datasets import RefCocoDataset
from mmetris.datasets.refer import load_instances

SHARED = Path(os.environ.get('MMETRIS_SHARED', Path(__file__).resolve().parents[3] / 'shared'))
PHOTOS = SHARED / 'photos'

pytestmark = pytest.mark.skipif(not PHOTOS.is_dir(), reason=f'the photographs are not there ({PHOTOS})')

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='Letterbox'),
    dict(type='LoadAnnotations'),
    dict(type='TokenizeExpression', context_length=22),
    dict(type='PackSegInputs'),
]


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmetris')


def test_all_expressions_load_with_masks_of_the_annotated_area():
    annotations = load_instances(str(PHOTOS / 'refcoco' / 'instances.json')).annotations
    num_samples = 0
    for split in ('train', 'val'):
        for item in RefCocoDataset(str(PHOTOS), split=split, test_mode=True, pipeline=PIPELINE):
            sample = item['data_samples']
            assert item['inputs'].shape == (3, 416, 416) and sample.expression
            assert sample.gt_mask.shape == sample.ori_shape
            # COCO's area is that of the polygons; drawing rounds their outline to pixels.
            np.testing.assert_allclose(int(sample.gt_mask.sum()), annotations[sample.ann_id]['area'], rtol=0.05)
            num_samples += 1
    assert num_samples == 35


def test_the_splits_share_no_photo():
    images = [
        {dataset.get_data_info(idx)['img_id'] for idx in range(len(dataset))}
        for dataset in (RefCocoDataset(str(PHOTOS), split=split) for split in ('train', 'val'))
    ]
    assert [len(ids) for ids in images] == [3, 1] and not images[0] & images[1]
