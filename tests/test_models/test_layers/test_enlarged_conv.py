"""Products before the enlargement, against enlargement and convolution in the order they are written."""

import copy
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmetris.models.layers.enlarged_conv import EnlargedConvNormReLU, enlarged_conv
from tests.toy import randn


def both(call, *shapes):
    """Result and gradients of a call on doubles of these shapes."""
    inputs = [randn(*shape, seed=seed).double().requires_grad_() for seed, shape in enumerate(shapes)]
    out = call(*inputs)
    weights = randn(*out.shape, seed=9).double()
    return out, torch.autograd.grad((out * weights).sum(), inputs)


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('scale', [1, 2, 3])
@pytest.mark.parametrize('side', [1, 3, 5])
@pytest.mark.parametrize('hw', [(4, 4), (5, 7), (1, 2), (1, 1)])
def test_result_and_gradients_are_those_of_the_literal_order(hw, side, scale, align_corners):
    def literal(feature_map, weight):
        large = F.interpolate(feature_map, scale_factor=scale, mode='bilinear', align_corners=align_corners)
        return F.conv2d(large, weight, padding=side // 2)

    shapes = (2, 3, *hw), (4, 3, side, side)
    reordered = both(lambda *inputs: enlarged_conv(*inputs, scale, align_corners), *shapes)
    torch.testing.assert_close(reordered, both(literal, *shapes))


def test_layout_of_the_map_does_not_matter():
    feature_map, weight = randn(2, 3, 5, 7), randn(4, 3, 3, 3, seed=1)
    torch.testing.assert_close(
        enlarged_conv(feature_map.contiguous(memory_format=torch.channels_last), weight),
        enlarged_conv(feature_map, weight),
    )


def test_a_model_first_used_in_inference_mode_can_be_trained_through():
    feature_map, weight = randn(1, 3, 6, 11), randn(4, 3, 3, 3, seed=1)
    with torch.inference_mode():
        enlarged_conv(feature_map, weight)
    weight.requires_grad_()
    enlarged_conv(feature_map, weight).square().sum().backward()
    assert weight.grad.abs().sum() > 0


def called(unit, feature_map):
    """Whether the unit calls its convolution (no hook and no other forward on it tells, as that changes the answer)."""
    with mock.patch.object(nn.Conv2d, 'forward', autospec=True, side_effect=nn.Conv2d.forward) as forward:
        unit(feature_map)
    return forward.called


def test_the_layers_are_called_where_reordering_is_not_known_to_help():
    unit, feature_map = EnlargedConvNormReLU(3, 4).eval(), randn(1, 3, 5, 7)
    assert not called(unit, feature_map)
    with torch.autocast('cpu', torch.float16):
        assert called(unit, feature_map)
    assert called(unit.half(), feature_map.half())


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('by_autocast', [False, True])
def test_in_bfloat16_errors_are_little_larger_than_those_of_the_literal_order(by_autocast, align_corners):
    torch.manual_seed(0)
    unit = EnlargedConvNormReLU(64, 32, align_corners=align_corners).train()
    feature_map = randn(2, 64, 13, 13).requires_grad_()
    inputs = feature_map, unit.conv.weight
    exact = unit.literal_forward(feature_map)
    shift = randn(*exact.shape, seed=3)
    exact = exact, *torch.autograd.grad((exact * shift).sum(), inputs)

    def errors(name):
        """Root mean squares of what is wrong with result and gradients, over those of the exact ones."""
        used = unit if by_autocast else copy.deepcopy(unit).bfloat16()
        used_map = feature_map if by_autocast else feature_map.detach().bfloat16().requires_grad_()
        with torch.autocast('cpu', torch.bfloat16, enabled=by_autocast):
            out = getattr(used, name)(used_map)
        found = out, *torch.autograd.grad((out * shift).sum(), (used_map, used.conv.weight))
        return [float((one - other).detach().norm() / other.detach().norm()) for one, other in zip(found, exact)]

    assert not called(unit, feature_map)
    for reordered, literal in zip(errors('forward'), errors('literal_forward')):
        assert 0 < reordered < 1.6 * literal < 0.1


def test_what_was_put_on_the_convolution_takes_part():
    unit, feature_map = EnlargedConvNormReLU(3, 4).eval(), randn(1, 3, 5, 7)
    before = unit(feature_map)
    unit.conv.register_forward_hook(lambda module, args, output: output + 1)
    assert (unit(feature_map) - before).abs().max() > 0.5

    class Adapted(nn.Module):
        def __init__(self, conv):
            super().__init__()
            self.conv = conv
            self.weight = conv.weight

        def forward(self, x):
            return self.conv(x) + 1

    unit = EnlargedConvNormReLU(3, 4).eval()
    before = unit(feature_map)
    unit.conv = Adapted(unit.conv)
    assert (unit(feature_map) - before).abs().max() > 0.5


def test_parameters_are_those_of_convolution_and_normalisation():
    unit = EnlargedConvNormReLU(3, 4, kernel_size=5, norm_cfg=dict(type='GN', num_groups=2))
    assert {name: tuple(value.shape) for name, value in unit.named_parameters()} == {
        'conv.weight': (4, 3, 5, 5),
        'norm.weight': (4,),
        'norm.bias': (4,),
    }
    assert unit(randn(2, 3, 5, 7)).shape == (2, 4, 10, 14)


def test_even_kernels_are_refused():
    with pytest.raises(ValueError, match='kernel_size must be odd, but it is 4'):
        EnlargedConvNormReLU(3, 4, kernel_size=4)
