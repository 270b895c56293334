"""Images become CLIP's: RGB, normalised, of one size, in training and in testing alike."""

from __future__ import annotations

import pytest
import torch
from mmengine.structures import PixelData

from mmetris.models import RefSegDataPreProcessor
from mmetris.structures import RefDataSample

SETTINGS = dict(
    plain=dict(bgr_to_rgb=False),
    to_rgb=dict(),
    to_bgr=dict(bgr_to_rgb=False, rgb_to_bgr=True),
    unnormalised=dict(mean=None, std=None),
    as_they_are=dict(mean=None, std=None, bgr_to_rgb=False),
)


def image(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def sample(height: int, width: int) -> RefDataSample:
    mask = torch.ones(1, height, width, dtype=torch.uint8)
    return RefDataSample(gt_sem_seg=PixelData(data=mask), metainfo=dict(img_shape=(height, width)))


@pytest.mark.parametrize('name', SETTINGS)
def test_testing_prepares_images_as_training_does(name):
    """Training is MMSeg's own, whatever its release calls these settings inside."""
    preprocessor = RefSegDataPreProcessor(size_divisor=8, **SETTINGS[name])
    images = [image(16, 24, seed) for seed in range(2)]
    samples = [sample(16, 24) for _ in images]
    tested = preprocessor(dict(inputs=images, data_samples=samples))['inputs']
    trained = preprocessor(dict(inputs=images, data_samples=samples), training=True)['inputs']
    assert tested.shape == (2, 3, 16, 24)
    torch.testing.assert_close(tested, trained, atol=0, rtol=0)
    assert (preprocessor.swaps_channels, preprocessor.normalises) == (
        name in ('to_rgb', 'to_bgr', 'unnormalised'),
        name in ('plain', 'to_rgb', 'to_bgr'),
    )


def test_images_of_different_sizes_are_padded_to_one_that_the_encoder_takes():
    images = [image(16, 30), image(9, 24)]
    samples = [sample(16, 30), sample(9, 24)]
    batch = RefSegDataPreProcessor(size_divisor=8)(dict(inputs=images, data_samples=samples))
    assert batch['inputs'].shape == (2, 3, 16, 32)
    assert [one.img_padding_size for one in batch['data_samples']] == [(0, 2, 0, 0), (0, 8, 0, 7)]
    assert not batch['inputs'][1, :, 9:].any() and not batch['inputs'][1, :, :, 24:].any()
