"""A map on another grid."""

import torch
import torch.nn.functional as F

from mmetris.models.layers.resizing import resize_to


def test_a_map_on_the_grid_is_handed_back_and_another_one_is_interpolated():
    feature_map = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    assert resize_to(feature_map, (3, 4)) is feature_map
    doubled = F.interpolate(feature_map, scale_factor=2, mode='bilinear', align_corners=False)
    assert torch.equal(resize_to(feature_map, (6, 8)), doubled)
    assert resize_to(feature_map, (2, 5)).shape == (1, 2, 2, 5)
