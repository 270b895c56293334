"""Contract of the staged image encoders, one list for all of them."""

import numpy as np
import pytest
import torch
from open_clip import CLIP
from open_clip.modified_resnet import AttentionPool2d
from torch.func import functional_call

from mmetris.models.encoders.staged import split_evenly
from mmetris.models.layers.position_embedding import resize_position_embedding
from mmetris.structures import map_tensors
from tests.toy import ARCHS, build, encoder_cfgs, randn

KINDS = tuple(ARCHS)


def build_encoder(kind, **kwargs):
    return build(encoder_cfgs(kind, **kwargs)[0]).train()


def open_clip_tower(kind, encoder):
    """open_clip's own model with the same weights."""
    clip = CLIP(**ARCHS[kind], quick_gelu=True).eval()
    clip.visual.load_state_dict(encoder.tower.state_dict())
    return clip.visual


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('size', [(64, 64), (64, 96), (128, 32)])
def test_claimed_widths_and_strides_are_the_real_ones(kind, size):
    encoder = build_encoder(kind)
    maps = encoder(randn(2, 3, *size))
    assert [tuple(feature_map.shape[1:]) for feature_map in maps] == [
        (spec.channels, size[0] // spec.stride, size[1] // spec.stride) for spec in encoder.out_specs
    ]


@pytest.mark.parametrize('kind', KINDS)
def test_stages_give_open_clips_own_intermediates(kind):
    encoder = build_encoder(kind)
    images = randn(2, 3, 64, 64)
    indices = dict(vit=[1, 2], resnet=[2, 3])[kind]
    expected = open_clip_tower(kind, encoder).forward_intermediates(images, indices=indices, intermediates_only=True)[
        'image_intermediates'
    ]
    for feature_map, other in zip(encoder(images), expected):
        torch.testing.assert_close(feature_map, other, rtol=1e-5, atol=1e-5)


def test_vit_tail_projects_each_patch_as_clip_projects_its_class_token():
    encoder = build_encoder('vit')
    images = randn(2, 3, 64, 64)
    state = encoder.stem(images)
    for stage in range(1, 5):
        state = encoder.stage(stage, state)
    pooled = open_clip_tower('vit', encoder)(images)
    # The class token put in the place of a patch must come out as CLIP's pooled feature.
    state = state._replace(tokens=state.tokens[:, [0, *range(64)]])
    torch.testing.assert_close(encoder.tail(state)[:, :, 0, 0], pooled, rtol=1e-5, atol=1e-5)


def test_resnet_tail_is_clips_attention_pool_asked_at_every_position():
    encoder = build_encoder('resnet')
    feature_map = randn(2, 256, 2, 2)
    pool = encoder.tower.attnpool
    # CLIP asks at the mean; a map whose first position is the mean and has the mean's position embedding asks the
    # same there.
    with torch.no_grad():
        pool.positional_embedding[1] = pool.positional_embedding[0]
        feature_map[:, :, 0, 0] = feature_map.flatten(2)[:, :, 1:].mean(2)
    pooled = AttentionPool2d.forward(pool, feature_map)
    torch.testing.assert_close(encoder.tail(feature_map)[:, :, 0, 0], pooled, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('size', [(64, 64), (96, 64)])
@pytest.mark.parametrize('kind', ['vit', 'resnet'])
def test_the_pool_is_clips_on_images_of_any_size(kind, size):
    encoder, images = build_encoder(kind), randn(2, 3, *size)
    state = encoder.stem(images)
    for stage in range(1, 5):
        state = encoder.stage(stage, state)
    tower = open_clip_tower(kind, encoder)
    grid_hw = tuple(encoder.feature_map(state).shape[-2:])
    # open_clip's own take one size; for another, the positions are resized as CLIP's are.
    if kind == 'vit':
        positions = resize_position_embedding(tower.positional_embedding, grid_hw)
        named = {'positional_embedding': positions}
    else:
        named = {
            'attnpool.positional_embedding': resize_position_embedding(tower.attnpool.positional_embedding, grid_hw)
        }
    expected = functional_call(tower, named, images)
    torch.testing.assert_close(encoder.pool(state), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('kind', KINDS)
def test_frozen_encoder_keeps_weights_statistics_and_mode_in_training_yet_passes_gradients(kind):
    encoder = build_encoder(kind)
    assert encoder.train() is encoder
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    state = encoder.stage(2, encoder.stage(1, encoder.stem(randn(2, 3, 64, 64))))
    update = torch.zeros_like(encoder.feature_map(state), requires_grad=True)
    state = encoder.inject(state, update)
    encoder.tail(encoder.stage(4, encoder.stage(3, state))).sum().backward()
    assert update.grad.abs().sum() > 0
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    assert not any(module.training for module in encoder.tower.modules())


@pytest.mark.parametrize('kind', KINDS)
def test_no_graph_is_recorded_before_the_first_update(kind):
    encoder = build_encoder(kind)
    state = encoder.stage(1, encoder.stem(randn(1, 3, 64, 64)))
    assert not encoder.feature_map(state).requires_grad


def test_statistics_of_a_frozen_resnet_move_only_on_request():
    encoder = build_encoder('resnet', norm_eval=False)
    before = encoder.tower.bn1.running_mean.clone()
    encoder(randn(2, 3, 64, 64))
    assert not torch.equal(encoder.tower.bn1.running_mean, before)


@pytest.mark.parametrize('kind', KINDS)
def test_an_unfrozen_encoder_trains_everything(kind):
    encoder = build_encoder(kind, frozen=False)
    assert all(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize('kind', KINDS)
def test_inject_adds_to_the_map_and_rows_of_a_state_are_those_of_its_tensors(kind):
    encoder = build_encoder(kind)
    state = encoder.stage(1, encoder.stem(randn(2, 3, 64, 64)))
    feature_map = encoder.feature_map(state)
    update = randn(*feature_map.shape, seed=1)
    torch.testing.assert_close(encoder.feature_map(encoder.inject(state, update)), feature_map + update)
    rows = torch.tensor([1, 0, 1])
    torch.testing.assert_close(encoder.feature_map(map_tensors(lambda tensor: tensor[rows], state)), feature_map[rows])


@pytest.mark.parametrize('kind', KINDS)
def test_a_batch_of_two_equals_two_of_one(kind):
    encoder = build_encoder(kind)
    images = randn(2, 3, 64, 96)
    for together, *alone in zip(encoder(images), encoder(images[:1]), encoder(images[1:])):
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kind, divisor', [('vit', 8), ('resnet', 32)])
def test_an_input_that_is_no_multiple_names_the_size_to_pad_to(kind, divisor):
    with pytest.raises(ValueError, match=f'multiples of {divisor}.*got 70 x 64.*{-(-70 // divisor) * divisor} x 64'):
        build_encoder(kind)(randn(1, 3, 70, 64))


@pytest.mark.parametrize('kind, wrong', [('vit', 'resnet'), ('resnet', 'vit')])
def test_an_architecture_of_the_other_family_is_refused(kind, wrong):
    cfg = encoder_cfgs(kind)[0] | dict(arch=ARCHS[wrong])
    with pytest.raises(ValueError, match='use CLIP'):
        build(cfg)


@pytest.mark.parametrize('out_stages', [(), (4, 3), (2, 3), (0, 4), (2, 5)])
def test_out_stages_must_increase_and_end_with_the_last(out_stages):
    with pytest.raises(ValueError, match='out_stages'):
        build_encoder('vit', out_stages=out_stages)


def test_a_misspelt_tunable_parameter_is_refused():
    with pytest.raises(ValueError, match='positional_embeding'):
        build_encoder('vit', tunable_parameters=['positional_embeding'])
    encoder = build_encoder('vit', tunable_parameters=['positional_embedding'])
    assert [name for name, value in encoder.named_parameters() if value.requires_grad] == ['tower.positional_embedding']


def test_resized_positions_are_kept_until_the_weights_change():
    encoder = build_encoder('vit')
    images = randn(1, 3, 64, 96)
    first = encoder(images)[0]
    positions = encoder._positions.get(encoder.tower.positional_embedding, (8, 12))
    assert encoder._positions.get(encoder.tower.positional_embedding, (8, 12)) is positions
    encoder.load_state_dict(
        {key: value * 1.5 if 'positional' in key else value for key, value in encoder.state_dict().items()}
    )
    assert not torch.allclose(encoder(images)[0], first)


@pytest.mark.parametrize('num_blocks, num_stages', [(12, 4), (12, 3), (24, 4), (5, 4), (1, 1)])
def test_blocks_are_split_evenly_without_gap_or_overlap(num_blocks, num_stages):
    stages = split_evenly(num_blocks, num_stages)
    assert [block for stage in stages for block in stage] == list(range(num_blocks))
    assert np.ptp([len(stage) for stage in stages]) <= (num_blocks % num_stages > 0)


def test_the_papers_split_ends_after_blocks_6_9_12():
    assert [stage.stop for stage in split_evenly(12, 4)] == [3, 6, 9, 12]
    with pytest.raises(ValueError, match='num_stages=5'):
        split_evenly(4, 5)
