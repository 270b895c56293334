"""Dense CLIP encoders against the formulas, computed plainly from the weights."""

import pytest
import torch

from mmetris.models.layers.dense_attention import DENSE_ATTENTIONS, attend_densely, neighbour_bias
from tests import toy, toy_training_free
from tests.toy_training_free import plain_resnet, plain_vit


def dense_vit(**backbone):
    return toy_training_free.build(backbone=backbone).backbone


@pytest.mark.parametrize('keep_residual', [None, True, False])
@pytest.mark.parametrize('attention', DENSE_ATTENTIONS)
@torch.no_grad()
def test_the_last_block_of_a_vit_follows_the_formula(attention, keep_residual):
    """By default with residual connection and FFN for MaskCLIP and SCLIP, without for ClearCLIP and NACLIP."""
    encoder = dense_vit(attention=attention, keep_residual=keep_residual, neighbour_std=1.5)
    image = toy.randn(3, 64, 64)
    kept = attention in ('maskclip', 'sclip') if keep_residual is None else keep_residual
    (computed,) = encoder(image[None])
    expected = plain_vit(encoder.tower, image, attention, kept, std=1.5)
    torch.testing.assert_close(computed[0], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_reference_itself_is_clip_where_the_attention_is_clips():
    tower = dense_vit().tower
    image = toy.randn(3, 64, 64)
    encoder = toy.build(dict(type='CLIPViT', arch=toy.VIT))
    encoder.tower.load_state_dict(tower.state_dict())
    torch.testing.assert_close(plain_vit(tower, image, 'clip', True), encoder(image[None])[-1][0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_attentions_differ_and_only_the_last_block_does():
    state, maps = None, []
    for attention in DENSE_ATTENTIONS:
        encoder = dense_vit(attention=attention, keep_residual=True)
        state = encoder.stem(toy.randn(1, 3, 32, 48))
        for index in (1, 2, 3):
            state = encoder.stage(index, state)
        maps.append((state.tokens, encoder.tail(encoder.stage(4, state))))
    for before, after in maps[1:]:
        assert torch.equal(before, maps[0][0]) and (after - maps[0][1]).abs().max() > 1e-3


@pytest.mark.parametrize('size', [(64, 64), (32, 96)])
@torch.no_grad()
def test_the_pool_of_a_resnet_becomes_two_convolutions(size):
    encoder = toy_training_free.build('resnet').backbone
    image = toy.randn(3, *size)
    (computed,) = encoder(image[None])
    assert computed.shape == (1, 24, size[0] // 32, size[1] // 32)
    torch.testing.assert_close(computed[0], plain_resnet(encoder.tower, image), rtol=1e-4, atol=1e-4)


def test_the_gaussian_is_one_at_the_patch_itself_and_leaves_the_class_token_alone():
    """A grid of 2 x 3: patches 0 and 5 are 1 row and 2 columns apart."""
    bias = neighbour_bias((2, 3), std=2.0)
    assert bias.shape == (7, 7) and not bias[0].any() and not bias[:, 0].any()
    assert torch.equal(bias.diagonal()[1:], torch.ones(6))
    assert bias[1, 6] == bias[6, 1] == torch.tensor(-5 / 8).exp()
    assert bias[1, 2] == torch.tensor(-1 / 8).exp() and bias[1, 4] == bias[1, 2]


@torch.no_grad()
def test_a_narrow_gaussian_keeps_a_patch_to_itself_more_than_a_wide_one():
    """A very wide one adds 1 to all scores between patches: to a patch it is as if nothing were added, but for the
    class token, which gets less."""
    query, key, value = toy.randn(3, 1, 1, 6, 4)
    free = attend_densely('naclip', query, key, value)
    wide = attend_densely('naclip', query, key, value, neighbour_bias((2, 3), 1e6, num_before=0))
    narrow = attend_densely('naclip', query, key, value, 50 * neighbour_bias((2, 3), 0.1, num_before=0))
    torch.testing.assert_close(wide, free)
    torch.testing.assert_close(narrow, value, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    'backbone, message',
    [
        (dict(type='DenseCLIPViT', attention='sclp'), "attention='sclp' must be one of 'maskclip', 'sclip'"),
        (dict(type='DenseCLIPViT', neighbour_std=0), 'neighbour_std=0 must be positive'),
        (dict(type='DenseCLIPViT', arch=toy.RESNET), 'which is a ResNet; use DenseCLIPResNet'),
        (dict(type='DenseCLIPResNet'), 'which is a ViT; use DenseCLIPViT'),
        (dict(type='DenseCLIPResNet', attention='naclip', arch=toy.RESNET), 'for a ViT (DenseCLIPViT)'),
        (dict(type='DenseCLIPResNet', attention='nope', arch=toy.RESNET), "attention='nope' must be one of"),
    ],
)
def test_attentions_that_there_are_not(backbone, message):
    with pytest.raises(ValueError) as error:
        toy.build(dict(arch=toy.VIT) | backbone)
    assert message in str(error.value)
