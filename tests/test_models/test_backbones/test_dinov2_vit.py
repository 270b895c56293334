"""DINOv2 in stages: timm's own features, positions, weight files of both layouts, contract, mistakes."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from mmetris import tokenize
from mmetris.models.backbones.dinov2_tower import ARCHS
from mmetris.models.backbones.dinov2_weights import from_timm, to_timm
from mmetris.models.layers.position_embedding import resize_dinov2_positions
from mmetris.models.trunk.prefix_cache import what_moves
from mmetris.structures import map_tensors
from tests.toy import build, randn, text_first_cfg

SIZES = dict(width=32, depth=6, num_heads=4, image_size=70)
REGISTERS = (0, 4)


def encoder_of(registers=4, **kwargs):
    return build(dict(dict(type='DINOv2ViT', arch=dict(SIZES, num_registers=registers)), **kwargs)).eval()


def scaled(encoder):
    """With scales other than 1, as trained towers have them."""
    with torch.no_grad():
        for name, value in encoder.tower.named_parameters():
            if name.endswith('gamma'):
                value.copy_(1 + 0.5 * randn(*value.shape))
    return encoder


def timms(encoder):
    """timm's own tower with the same weights."""
    sizes = encoder.sizes
    name = 'vit_base_patch14_reg4_dinov2' if sizes.num_registers else 'vit_base_patch14_dinov2'
    tower = timm.create_model(
        name, img_size=sizes.image_size, embed_dim=sizes.width, depth=sizes.depth, num_heads=sizes.num_heads
    )
    tower.load_state_dict(to_timm(encoder.tower.state_dict()))
    return tower.eval()


@pytest.mark.parametrize('registers', REGISTERS)
@torch.no_grad()
def test_features_are_timms_own(registers):
    """At the size of the positions, where both define them; elsewhere timm resizes otherwise."""
    encoder = scaled(encoder_of(registers, stage_ends=(2, 3, 5, 6), out_stages=(1, 3, 4)))
    images = randn(2, 3, 70, 70)
    tower = timms(encoder)
    expected = tower.forward_intermediates(images, indices=[1, 4], intermediates_only=True)
    expected.append(tower.forward_intermediates(images, indices=[5], norm=True, intermediates_only=True)[0])
    for found, other in zip(encoder(images), expected, strict=True):
        torch.testing.assert_close(found, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('name', ARCHS)
def test_published_towers_have_timms_keys_and_shapes(name):
    with torch.device('meta'):
        encoder = build(dict(type='DINOv2ViT', arch=name))
        size = dict(s='small', b='base', l='large')[name[len('dinov2_vit')]]
        theirs = timm.create_model(f'vit_{size}_patch14_{"reg4_" if name.endswith("_reg") else ""}dinov2')
    own = {key: value.shape for key, value in to_timm(encoder.tower.state_dict()).items()}
    assert own == {key: value.shape for key, value in theirs.state_dict().items()}


def test_positions_are_resized_by_dinov2s_scale():
    """scale_factor = (grid + 0.1) / side, bicubic; the class position as it is; with offset 0 the plain ratio."""
    positions = randn(1, 1 + 37 * 37, 8)
    found = resize_dinov2_positions(positions, (32, 20))
    grid = positions[:, 1:].reshape(1, 37, 37, 8).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, scale_factor=(32.1 / 37, 20.1 / 37), mode='bicubic')
    assert expected.shape[2:] == (32, 20)
    assert torch.equal(found[:, :1], positions[:, :1])
    torch.testing.assert_close(found[:, 1:], expected.flatten(2).transpose(1, 2))
    plain = resize_dinov2_positions(positions, (32, 20), offset=0, antialias=True)
    expected = F.interpolate(grid, size=(32, 20), mode='bicubic', antialias=True)
    torch.testing.assert_close(plain[:, 1:], expected.flatten(2).transpose(1, 2))
    assert (plain - found).abs().max() > 1e-3
    assert resize_dinov2_positions(positions, (37, 37)) is positions
    with pytest.raises(ValueError, match='8 grid positions is not square'):
        resize_dinov2_positions(positions[:, :9], (2, 2))


@torch.no_grad()
def test_registers_stand_after_the_class_token_without_positions():
    encoder = encoder_of()
    tower, tokens = encoder.tower, encoder.stem(randn(1, 3, 70, 70)).tokens
    assert tokens.shape[1] == 1 + 4 + 25
    torch.testing.assert_close(tokens[:, 0], tower.cls_token[:, 0] + tower.pos_embed[:, 0])
    assert torch.equal(tokens[:, 1:5], tower.register_tokens)


@pytest.mark.parametrize('size', [(70, 70), (28, 84), (98, 42)])
@torch.no_grad()
def test_claimed_widths_and_strides_are_the_real_ones_and_rows_are_independent(size):
    encoder = encoder_of()
    images = randn(2, 3, *size)
    maps = encoder(images)
    assert [tuple(one.shape[1:]) for one in maps] == [
        (spec.channels, size[0] // spec.stride, size[1] // spec.stride) for spec in encoder.out_specs
    ]
    for row in range(2):
        for one, other in zip(encoder(images[row : row + 1]), maps, strict=True):
            torch.testing.assert_close(one[0], other[row], rtol=1e-5, atol=1e-5)


def test_what_is_injected_comes_back_in_the_map_and_gradients_pass():
    encoder = encoder_of().train()
    assert not any(value.requires_grad for value in encoder.parameters()) and not encoder.tower.training
    state = encoder.stage(1, encoder.stem(randn(1, 3, 28, 42)))
    update = randn(1, 32, 2, 3).requires_grad_()
    added = encoder.inject(state, update)
    torch.testing.assert_close(encoder.feature_map(added), encoder.feature_map(state) + update)
    assert torch.equal(added.tokens[:, :5], state.tokens[:, :5])
    encoder.tail(encoder.stage(2, added)).square().sum().backward()
    assert update.grad.abs().sum() > 0
    assert map_tensors(lambda tensor: tensor[[0, 0]], state).tokens.shape[0] == 2


@pytest.mark.parametrize('registers', REGISTERS)
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('layout', ['own', 'timm'])
@torch.no_grad()
def test_weights_are_read_from_files_of_both_layouts(registers, suffix, layout, tmp_path):
    source = scaled(encoder_of(registers))
    state = source.tower.state_dict()
    state = to_timm(state) if layout == 'timm' else dict(state, mask_token=torch.zeros(1, 32))
    file = tmp_path / f'weights{suffix}'
    if suffix == '.pth':
        torch.save(dict(model=state), file)
    else:
        save_file({key: value.clone() for key, value in state.items()}, file)
    found = encoder_of(registers, checkpoint=str(file))
    for value in found.tower.parameters():
        value.zero_()
    found.init_weights()
    for one, other in zip(found(randn(1, 3, 28, 42)), source(randn(1, 3, 28, 42)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        # Where timm's class token has its position in it, there is a rounding.
        assert torch.equal(one, other) or (layout == 'timm' and registers)


def test_the_mapping_to_timm_is_undone_by_the_one_from_it():
    for registers in REGISTERS:
        state = to_timm(encoder_of(registers).tower.state_dict())
        again = to_timm(from_timm(state))
        assert again.keys() == state.keys() and all(torch.equal(value, state[key]) for key, value in again.items())


def test_files_that_do_not_fit_are_refused_by_name(tmp_path):
    state = encoder_of().tower.state_dict()
    cases = {
        'missing: register_tokens': {key: value for key, value in state.items() if key != 'register_tokens'},
        'not expected: blocks.9.norm1.weight': {**state, 'blocks.9.norm1.weight': torch.ones(32)},
        r'other shape: pos_embed \(1, 17, 32\) instead of \(1, 26, 32\)': {**state, 'pos_embed': torch.ones(1, 17, 32)},
        'holds no DINOv2': {'weight': torch.ones(1)},
    }
    for match, content in cases.items():
        torch.save(content, tmp_path / 'weights.pth')
        with pytest.raises(ValueError, match=match):
            encoder_of(checkpoint=str(tmp_path / 'weights.pth')).init_weights()
    with pytest.raises(FileNotFoundError, match='dinov2_vitb14_reg4_pretrain.pth'):
        encoder_of(checkpoint=str(tmp_path / 'none.pth')).init_weights()


@pytest.mark.parametrize(
    'change, match',
    [
        (dict(arch='dinov2_vitg14'), 'none of DINOv2: dinov2_vits14,'),
        (dict(arch=dict(width=32, depth=2)), 'needs depth, num_heads, width'),
        (dict(arch=dict(SIZES, colour=1)), 'and may have image_size'),
        (dict(arch=dict(SIZES, num_heads=5)), 'num_heads must divide width'),
        (dict(stage_ends=(2, 2, 6)), 'must increase within 1..6'),
        (dict(stage_ends=(2, 5)), 'end with 6, all blocks'),
        (dict(out_stages=(1, 2)), 'end with the last stage, 4'),
        (dict(tuning=dict(lora=dict(type='LoRA'))), 'blocks.0.attn.qkv'),
        (dict(tuning=dict(lora=dict(type='Adapter', places='blocks'))), "'blocks' is no place for a tuning method"),
    ],
)
def test_mistakes_are_named(change, match):
    with pytest.raises(ValueError, match=match):
        encoder_of(**change)


def test_an_image_of_another_size_is_refused_with_the_next_one_that_fits():
    with pytest.raises(ValueError, match='multiples of 14.*28 x 42'):
        encoder_of()(randn(1, 3, 28, 40))


def test_its_normalisation_is_imagenets():
    assert encoder_of().normalisation['mean'] == pytest.approx([255 * value for value in (0.485, 0.456, 0.406)])
    assert encoder_of().normalisation['std'] == pytest.approx([255 * value for value in (0.229, 0.224, 0.225)])


TUNING = dict(
    adapter=dict(type='Adapter'),
    lora=dict(type='LoRA', places='blocks.*.attn.qkv'),
    prompt=dict(type='PromptTokens', num_tokens=3),
    deep=dict(type='PromptTokens', num_tokens=2, deep=True),
    bitfit=dict(type='BitFit', names='blocks.[45].*bias'),
)


@pytest.mark.parametrize('name', TUNING)
def test_tuning_methods_find_their_places(name):
    """Roles lead to them; what starts as no change gives the encoder's own features."""
    plain, tuned = encoder_of(), encoder_of(tuning={name: TUNING[name]})
    tuned.load_state_dict(plain.state_dict(), strict=False)
    images = randn(1, 3, 42, 28)
    for one, other in zip(tuned(images), plain(images), strict=True):
        assert one.shape == other.shape
        assert torch.equal(one, other) == ('prompt' not in TUNING[name]['type'].lower())
    for _ in range(2):
        with torch.no_grad():
            for value in tuned.parameters():
                if value.requires_grad:
                    value += 0.1
        tuned.zero_grad()
        sum(one.square().sum() for one in tuned(images)).backward()
    gradients = [value.grad for value in tuned.parameters() if value.requires_grad]
    assert gradients and all(value is not None for value in gradients)
    moves = [index for index in range(6) if what_moves(tuned, index) is not None]
    assert moves == dict(bitfit=[4], prompt=[0], deep=[0, 1, 2, 3, 4]).get(name, [1, 2, 3, 4])


def test_copies_and_slim_keys():
    encoder = encoder_of()
    assert set(encoder.frozen_keys()) == {f'tower.{key}' for key in encoder.tower.state_dict()}
    twin = copy.deepcopy(encoder)
    assert twin.fingerprint() == encoder.fingerprint()
    with torch.no_grad():
        twin.tower.cls_token += 1
    assert twin.fingerprint() != encoder.fingerprint()


def test_it_stands_under_a_bridger_like_any_image_encoder():
    """A Bridger that starts at zero leaves its maps as they are; gradients reach all of it."""
    bridger = dict(type='Bridger', embed_dims=8, num_heads=2, ffn_dims=16, zero_init=True)
    model = build(text_first_cfg(backbone=dict(tuning={})) | dict(neck=bridger)).eval()
    images, tokens = randn(2, 3, 64, 48), tokenize(['the left dog', 'a cat'], 17)
    for one, other in zip(model.bridge(images, tokens).maps, model.backbone(images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    model.forward_logits(images, tokens).square().mean().backward()
    assert all(value.grad is not None for value in model.neck.parameters())


def test_what_no_weight_tells_is_told_to_the_prefix_cache(tmp_path):
    """Features of one way to resize positions, or of one number of heads, are never taken for another's."""
    images = randn(1, 3, 64, 48)
    folders = []
    for change in ({}, dict(interpolate_offset=0.0), dict(interpolate_antialias=True)):
        cache = dict(prefix_cache=dict(dir=str(tmp_path), max_gb=1))
        model = build(text_first_cfg(backbone=change) | cache).eval()
        model.image_prefix(images)
        folders.append(len(list(tmp_path.iterdir())))
    assert folders == [1, 2, 3]
    assert 'num_heads=4' in repr(model.backbone.tower.blocks[0].attn)
