"""Coordinates and the convolution that reads them."""

import torch

from mmetris.models.layers.coord_conv import CoordConv, coordinate_maps


def test_coordinates_by_hand():
    x, y = coordinate_maps((2, 3))
    assert x.tolist() == [[-1, 0, 1], [-1, 0, 1]]
    assert y.tolist() == [[-1, -1, -1], [1, 1, 1]]


def test_keeps_the_grid_and_carries_gradients():
    layer = CoordConv(4, 6)
    feature_map = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    result = layer(feature_map)
    assert result.shape == (2, 6, 3, 5)
    result.sum().backward()
    assert feature_map.grad.shape == feature_map.shape
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_sees_the_place_and_nothing_else_in_a_constant_map():
    """A 1x1 kernel that reads the x coordinate alone gives ReLU(x), up to batch normalisation's epsilon."""
    layer = CoordConv(1, 1, kernel_size=1).eval()
    with torch.no_grad():
        layer.conv.conv.weight.copy_(torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1))
        result = layer(torch.full((1, 1, 2, 3), 9.0))
    assert torch.allclose(result[0, 0], torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]), atol=1e-4)
