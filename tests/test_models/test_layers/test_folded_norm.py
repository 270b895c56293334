"""conv_norm: BatchNorm folded into the convolution, exactly while it cannot move."""

from functools import partial

import pytest
import torch
from open_clip.modified_resnet import Bottleneck
from torch import nn

from mmetris.models.layers.folded_norm import FoldedBottleneck, conv_norm, fold_norms
from tests.toy import randn


def layers(bias=False, norm=nn.BatchNorm2d, frozen=True):
    """A convolution and a BatchNorm as after a training, in evaluation mode."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 4, 3, padding=1, bias=bias), norm(4)
    for value in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        value += torch.rand(4)
    return conv.requires_grad_(not frozen), norm.eval().requires_grad_(not frozen)


@pytest.mark.parametrize('bias', [True, False])
def test_output_and_gradient_are_those_of_both_layers(bias):
    conv, norm = layers(bias)
    outputs = []
    for step in (lambda x: conv_norm(conv, norm, x), lambda x: norm(conv(x))):
        x = randn(2, 3, 5, 6).requires_grad_()
        out = step(x)
        out.square().sum().backward()
        outputs.append((out, x.grad))
    torch.testing.assert_close(*outputs)


def test_the_norm_is_not_called_while_it_is_frozen(monkeypatch):
    conv, norm = layers()
    monkeypatch.setattr(nn.BatchNorm2d, 'forward', None)
    assert conv_norm(conv, norm, randn(1, 3, 5, 6)).shape == (1, 4, 5, 6)


@pytest.mark.parametrize('change', ['weight', 'running_var', 'new storage'])
def test_changed_weights_and_statistics_are_seen(change):
    conv, norm = layers()
    x = randn(1, 3, 5, 6)
    before = conv_norm(conv, norm, x)
    if change == 'new storage':
        conv.weight.data = conv.weight.data * 3
    else:
        with torch.no_grad():
            dict(weight=conv.weight, running_var=norm.running_var)[change].mul_(3)
    after = conv_norm(conv, norm, x)
    assert (after - before).abs().max() > 0.1
    torch.testing.assert_close(after, norm(conv(x)))


def test_under_autocast_the_weights_are_kept_in_its_type():
    conv, norm = layers()
    x = randn(2, 3, 5, 6)
    exact = conv_norm(conv, norm, x)
    with torch.autocast('cpu', torch.bfloat16):
        found = conv_norm(conv, norm, x)
        assert folded_weight(conv).dtype == torch.bfloat16
    assert found.dtype == torch.bfloat16 and 0 < (found - exact).abs().max() < 0.05
    torch.testing.assert_close(conv_norm(conv, norm, x), exact, rtol=0, atol=0)


def test_autocast_leaves_float64_alone():
    conv, norm = (layer.double() for layer in layers())
    x = randn(1, 3, 5, 6).double()
    with torch.autocast('cpu', torch.bfloat16):
        torch.testing.assert_close(conv_norm(conv, norm, x), norm(conv(x)))


def test_statistics_still_move_in_training():
    conv, norm = layers()
    before = norm.running_mean.clone()
    conv_norm(conv, norm.train(), randn(2, 3, 5, 6))
    assert not torch.equal(norm.running_mean, before)


def test_what_is_tuned_gets_its_gradient():
    conv, norm = layers(frozen=False)
    conv_norm(conv, norm, randn(2, 3, 5, 6)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in (conv.weight, norm.weight, norm.bias))


def test_a_model_first_used_in_inference_mode_can_be_trained_through():
    conv, norm = layers()
    with torch.inference_mode():
        conv_norm(conv, norm, randn(1, 3, 5, 6))
    x = randn(1, 3, 5, 6).requires_grad_()
    conv_norm(conv, norm, x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_weights_that_are_there_for_a_moment_are_not_kept():
    conv, norm = layers()
    x = randn(1, 3, 5, 6)
    for factor in (1, 2):  # The same memory each time, as FSDP has it.
        gathered = dict(weight=conv.weight.detach() * factor)
        expected = norm(torch.func.functional_call(conv, gathered, x))
        weight = conv._parameters.pop('weight')
        conv.weight = gathered['weight']
        torch.testing.assert_close(conv_norm(conv, norm, x), expected)
        del conv.weight
        conv.weight = weight
    assert not hasattr(conv, '_kept_fold')


def test_nothing_is_added_to_the_state_dict_and_copies_go_their_own_way():
    conv, norm = layers()
    x = randn(1, 3, 5, 6)
    conv_norm(conv, norm, x)
    assert set(conv.state_dict()) == {'weight'}
    conv.to(torch.float64), norm.to(torch.float64)
    torch.testing.assert_close(conv_norm(conv, norm, x.double()), norm(conv(x.double())))


def folded_weight(conv):
    """The folded weight that a convolution kept last."""
    return list(conv._kept_fold._results.values())[-1][1][0]


def remember(kept, tensor):
    kept[tensor.data_ptr()] = tensor.numel()
    return tensor


@pytest.mark.parametrize('stride', [1, 2])
def test_a_block_of_clip_gives_what_open_clips_gives_and_keeps_half_of_it(stride):
    torch.manual_seed(0)
    block = Bottleneck(8, 4, stride).eval().requires_grad_(False)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean += torch.rand_like(module.running_mean)
            module.running_var += torch.rand_like(module.running_var)
    results = []
    for _ in range(2):
        kept, x = {}, randn(2, 8, 6, 6).requires_grad_()
        keep = partial(remember, kept)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = block(x * 1)
        out.square().sum().backward()
        results.append((out, x.grad))
        weights = {value.data_ptr() for value in block.state_dict().values()}
        size = sum(numel for pointer, numel in kept.items() if pointer not in weights)
        folded = [folded_weight(module) for module in block.modules() if hasattr(module, '_kept_fold')]
        results[-1] += (size - sum(weight.numel() for weight in folded),)
        own, keys = set(block.parameters()), list(block.state_dict())
        block = fold_norms(nn.Sequential(block))[0]
        assert type(block) is FoldedBottleneck and set(block.parameters()) == own and list(block.state_dict()) == keys
    (out, gradient, size), (folded_out, folded_gradient, folded_size) = results
    torch.testing.assert_close((folded_out, folded_gradient), (out, gradient), rtol=1e-4, atol=1e-5)
    assert folded_size < 0.65 * size
