"""Bringing a map to the decoder's grid."""

import pytest
import torch
from torch import nn

from mmetris.models.layers.conv_norm import ConvNormReLU, MapProjection


@pytest.mark.parametrize(
    ('in_stride', 'layer', 'kernel', 'grid'),
    [
        (8, nn.Conv2d, (2, 2), (3, 5)),
        (16, nn.Conv2d, (1, 1), (6, 10)),
        (32, nn.ConvTranspose2d, (2, 2), (12, 20)),
        (4, nn.Conv2d, (4, 4), (1, 2)),
    ],
)
def test_kernel_equals_the_step_between_strides(in_stride, layer, kernel, grid):
    projection = MapProjection(3, 8, in_stride, stride=16)
    assert type(projection.conv) is layer
    assert projection.conv.kernel_size == projection.conv.stride == kernel
    assert projection(torch.zeros(2, 3, 6, 10)).shape == (2, 8, *grid)


@pytest.mark.parametrize(('in_stride', 'stride'), [(12, 16), (0, 16), (16, -16)])
def test_strides_that_do_not_divide_are_refused(in_stride, stride):
    with pytest.raises(ValueError, match=f'stride={stride}.*in_stride={in_stride}'):
        MapProjection(3, 8, in_stride, stride)


def test_normalisation_is_exchangeable():
    unit = ConvNormReLU(nn.Conv2d(3, 8, 1, bias=False), dict(type='GN', num_groups=2))
    assert isinstance(unit.norm, nn.GroupNorm)
