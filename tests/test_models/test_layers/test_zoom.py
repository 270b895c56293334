"""Zoom Layer."""

import pytest
import torch
import torch.nn.functional as F

from mmetris.models.layers.zoom import KINDS, ZoomLayer, match_grid
from tests.toy import randn


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('scale, out_hw', [(0.5, (2, 3)), (1, (4, 6)), (2, (8, 12))])
def test_output_has_the_scaled_grid(kind, scale, out_hw):
    zoom = ZoomLayer(6, 5, scale, kind, grid_hw=(4, 6))
    assert zoom(randn(2, 6, 4, 6)).shape == (2, 5, *out_hw)


@pytest.mark.parametrize('kind', ['conv_deconv', 'conv_interpolate'])
@pytest.mark.parametrize('height, width', [(5, 7), (4, 5), (1, 1)])
def test_an_odd_grid_survives_zooming_in_and_out(kind, height, width):
    zoomed = ZoomLayer(6, 5, 0.5, kind)(randn(2, 6, height, width))
    assert zoomed.shape[-2:] == (-(-height // 2), -(-width // 2))
    assert ZoomLayer(5, 6, 2, kind)(zoomed, out_hw=(height, width)).shape == (2, 6, height, width)


def test_the_last_row_of_an_odd_grid_still_counts():
    zoom = ZoomLayer(1, 1, 0.5)
    feature_map = torch.zeros(1, 1, 3, 3)
    feature_map[..., 2, 2] = 1
    assert zoom(feature_map)[0, 0, 1, 1] == zoom.project.weight[0, 0, 0, 0]


def test_with_norm_ends_in_batch_norm_and_relu():
    zoom = ZoomLayer(4, 4, with_norm=True)
    zoomed = zoom(randn(2, 4, 5, 5))
    assert (zoomed >= 0).all() and (zoomed == 0).any()


@pytest.mark.parametrize(
    'kwargs, message',
    [(dict(scale=4), 'scale=4'), (dict(kind='fft'), "kind='fft'"), (dict(kind='mlp'), 'give grid_hw')],
)
def test_bad_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ZoomLayer(4, 4, **kwargs)


def test_a_kind_tied_to_one_grid_refuses_another():
    with pytest.raises(ValueError, match=r'built for a grid of \(4, 4\), got \(4, 5\)'):
        ZoomLayer(4, 4, kind='linear', grid_hw=(4, 4))(randn(1, 4, 4, 5))


def test_a_map_on_the_grid_is_handed_back_and_another_one_is_interpolated():
    feature_map = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    assert match_grid(feature_map, (3, 4)) is feature_map
    doubled = F.interpolate(feature_map, scale_factor=2, mode='bilinear', align_corners=False)
    assert torch.equal(match_grid(feature_map, (6, 8)), doubled)
    assert match_grid(feature_map, (2, 5)).shape == (1, 2, 2, 5)


def test_match_grid_resizes_only_what_differs():
    feature_map = randn(1, 2, 4, 4)
    assert match_grid(feature_map, (4, 4)) is feature_map
    assert match_grid(feature_map, (2, 8)).shape == (1, 2, 2, 8)
