"""The sentence's convolution and the dot product, against plain loops."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmetris.models.decode_heads import DotProductProjector, Projector, dynamic_conv
from tests.toy import randn


@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize('size', [(4, 4), (5, 7), (1, 2)])
@pytest.mark.parametrize('side', [1, 3, 5])
def test_dynamic_convolution_gives_each_sample_its_own_kernel(batch, size, side):
    """Against torch's convolution of one sample at a time: result and all three gradients."""
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((batch, 6, *size), (batch, 6, side, side), (batch,))
    ]
    result = dynamic_conv(*inputs)
    one_by_one = torch.cat(
        [
            F.conv2d(feature_map[None], weight[None], bias[None], padding=side // 2)
            for feature_map, weight, bias in zip(*inputs)
        ]
    )
    assert result.shape == (batch, 1, *size)
    assert torch.allclose(result, one_by_one)
    upstream = torch.randn(result.shape, generator=generator, dtype=torch.float64)
    ours = torch.autograd.grad(result, inputs, upstream)
    theirs = torch.autograd.grad(one_by_one, inputs, upstream)
    assert all(torch.allclose(gradient, expected) for gradient, expected in zip(ours, theirs))


def test_kernels_that_share_a_sample_are_convolved_as_if_each_had_its_own():
    feature_map, weight, bias = randn(2, 6, 5, 7), randn(2, 4, 6, 3, 3, seed=1), randn(2, 4, seed=2)
    apart = [dynamic_conv(feature_map, weight[:, kernel], bias[:, kernel]) for kernel in range(4)]
    torch.testing.assert_close(dynamic_conv(feature_map, weight, bias), torch.cat(apart, dim=1))


@pytest.mark.parametrize('projector', [Projector(8, 16), DotProductProjector(8, 16)], ids=['kernels', 'dots'])
def test_several_sentences_share_the_pixels_of_a_projector(projector):
    feature_map, sentences = randn(2, 16, 5, 7), randn(2, 3, 8, seed=1)
    projector.eval()
    apart = [projector(feature_map, sentences[:, index]) for index in range(3)]
    torch.testing.assert_close(projector(feature_map, sentences), torch.cat(apart, dim=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('sentences', [(2, 8), (2, 3, 8)], ids=['one each', 'several each'])
@pytest.mark.parametrize('side', [1, 3, 5])
def test_projector_computes_what_its_layers_do_in_their_turn(side, sentences):
    """Logits, at the border too, and the gradients of map, sentence and every parameter."""
    torch.manual_seed(0)
    projector = Projector(8, 16, side).double()
    results = []
    for forward in (projector, projector.literal_forward):
        inputs = [randn(2, 16, 3, 5).double().requires_grad_(), randn(*sentences, seed=1).double().requires_grad_()]
        logits = forward(*inputs)
        wanted = dict(projector.named_parameters()) | dict(map=inputs[0], sentence=inputs[1])
        gradients = torch.autograd.grad((logits * randn(*logits.shape, seed=2)).sum(), list(wanted.values()))
        results.append(dict(zip(wanted, gradients), logits=logits))
    torch.testing.assert_close(*results)


def test_what_was_put_on_the_last_convolution_takes_part():
    projector, inputs = Projector(8, 16).eval(), (randn(2, 16, 3, 5), randn(2, 8, seed=1))
    before = projector(*inputs)
    projector.pixel_projection[-1].register_forward_hook(lambda module, args, output: 2 * output)
    assert (projector(*inputs) - before).abs().max() > 0.01
    torch.testing.assert_close(projector(*inputs), projector.literal_forward(*inputs))


def test_the_last_convolution_does_not_work_on_the_pixels(monkeypatch):
    projector = Projector(8, 16).eval()
    monkeypatch.setattr(nn.Conv2d, 'forward', None)
    assert projector(randn(1, 16, 3, 5), randn(1, 8)).shape == (1, 1, 12, 20)


def test_dot_product_by_hand():
    """Sentence (1, 2) projected by ((1, 0), (0, 1), (1, 1), (0, 0)) is (1, 2, 3, 0); over sqrt(4)."""
    projector = DotProductProjector(sentence_channels=2, channels=4)
    with torch.no_grad():
        projector.sentence_projection.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]))
        projector.sentence_projection.bias.zero_()
        pixels = torch.tensor(
            [[[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]], [[0.0, 2.0], [5.0, 0.0], [0.0, 0.0]]]
        )  # two channels, (3, 2)
        feature_map = torch.cat((pixels, torch.ones(2, 3, 2)))[None]
        logits = projector(feature_map, torch.tensor([[1.0, 2.0]]))
    expected = (pixels[0] + 2 * pixels[1] + 3) / 2
    assert torch.equal(logits, expected[None, None])
