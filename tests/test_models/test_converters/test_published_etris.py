"""The map between published keys and ours holds for any sizes, both ways, and refuses what it does not cover."""

import copy
import re

import pytest
import torch
from mmengine.registry import init_default_scope

from mmetris.models.converters import ETRIS, ETRISSizes, etris_model_cfg, infer_etris_sizes
from mmetris.registry import MODELS

TEXT = dict(context_length=40, vocab_size=600, width=192, heads=3, layers=3, mlp_ratio=4.0)
RESNET = dict(image_size=96, width=6, layers=[1, 2, 1, 1], head_width=64, mlp_ratio=None)
VIT = dict(image_size=32, patch_size=8, width=64, layers=4, head_width=64, mlp_ratio=2.0)


def sizes(family='vit', **changes):
    """Odd sizes: 3 heads, 600 words, few layers."""
    resnet = family == 'resnet'
    vision = {key: value for key, value in (RESNET if resnet else VIT).items() if value is not None}
    found = dict(
        family=family,
        arch=dict(embed_dim=20, quick_gelu=True, vision_cfg=vision, text_cfg=TEXT),
        stages=(2, 3, 4) if resnet else (1, 2, 3),
        bridger_dims=24,
        bridger_ffn_dims=40 if resnet else None,
        scales=(0.5, 1, 2) if resnet else (1, 1, 1),
        channels=192,
        head_layers=2,
        head_ffn_dims=20,
        kernel_size=5,
        input_size=416 if resnet else 32,
    )
    return ETRISSizes(**(found | changes))


def build(found, heads=3):
    init_default_scope('mmetris')
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS.build(etris_model_cfg(found, heads, heads)).eval()


def published(found, heads=3):
    """A checkpoint as the released code saves it, of random weights."""
    checkpoint = ETRIS.to_published(dict(state_dict=build(found, heads).state_dict()))
    return dict(epoch=7, best_iou=0.5, state_dict=checkpoint['state_dict'])


@pytest.mark.parametrize(
    'found',
    [
        sizes('vit'),
        sizes('resnet'),
        sizes('resnet', stages=(3, 4)),
        sizes('resnet', stages=(4,)),
        sizes('vit', channels=48),
    ],
    ids=['vit', 'resnet', 'two_stages', 'last_stage', 'narrow_decoder'],
)
def test_sizes_are_found_and_weights_survive_both_ways(found):
    original = published(found)
    converted = ETRIS.from_published(original, bridger_heads=3, head_heads=3)
    assert converted.sizes == found
    model = build(found)
    assert converted.model_cfg == etris_model_cfg(found, 3, 3)
    state = converted.checkpoint['state_dict']
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    back = ETRIS.to_published(converted.checkpoint)
    assert back.keys() == original.keys() and (back['epoch'], back['best_iou']) == (7, 0.5)
    assert list(back['state_dict']) == list(original['state_dict'])
    assert all(torch.equal(value, back['state_dict'][key]) for key, value in original['state_dict'].items())


@pytest.mark.parametrize('family', ['vit', 'resnet'])
def test_names_are_each_others_inverse(family):
    for name in build(sizes(family)).state_dict():
        keys = ETRIS.keys(family)
        assert keys.ours(keys.published(name)) == name


def test_order_prefix_and_half_precision_survive():
    original = published(sizes('resnet'))
    weights = {
        key.removeprefix('module.'): value.half() if value.is_floating_point() else value
        for key, value in reversed(original['state_dict'].items())
    }
    back = ETRIS.to_published(ETRIS.from_published(dict(state_dict=weights), bridger_heads=3, head_heads=3).checkpoint)
    assert list(back['state_dict']) == list(weights)
    assert all(
        back['state_dict'][key].dtype == value.dtype and torch.equal(back['state_dict'][key], value)
        for key, value in weights.items()
    )


def test_a_checkpoint_trained_here_gets_clips_temperature_and_its_epoch():
    state = build(sizes('vit')).state_dict()
    back = ETRIS.to_published(dict(state_dict=state, meta=dict(epoch=12)))
    assert back['epoch'] == 12
    assert back['state_dict']['module.backbone.logit_scale'].exp().item() == pytest.approx(100)
    assert ETRIS.from_published(back, bridger_heads=3, head_heads=3).checkpoint['state_dict'].keys() == state.keys()


@pytest.mark.parametrize('family, bridger', [('resnet', 4), ('vit', 8)])
def test_heads_default_to_those_of_the_released_configs(family, bridger):
    original = published(sizes(family, bridger_dims=64, channels=64), heads=1)
    cfg = ETRIS.from_published(original).model_cfg
    assert (cfg['neck']['num_heads'], cfg['decode_head']['num_heads']) == (bridger, 8)
    assert cfg['dual_encoder']['arch']['text_cfg']['heads'] == 3


def test_heads_of_clips_towers_follow_its_width_or_the_caller():
    plain = {key.removeprefix('module.'): value for key, value in published(sizes('vit'))['state_dict'].items()}
    assert infer_etris_sizes(plain).arch['text_cfg']['heads'] == 3
    assert infer_etris_sizes(plain, text_heads=6).arch['text_cfg']['heads'] == 6
    assert infer_etris_sizes(plain, image_heads=4).arch['vision_cfg']['head_width'] == 16


@pytest.mark.parametrize(
    'change, match',
    [
        (lambda state: state.update({'module.backbone.extra': torch.ones(1)}), 'no place for: module.backbone.extra'),
        (lambda state: state.update({'module.surprise.weight': torch.ones(1)}), 'no place for: module.surprise.weight'),
        (
            lambda state: state.update({'module.bridger.linear1.3.weight': torch.ones(1)}),
            'no place for: module.bridger.',
        ),
        (lambda state: state.update({'other.weight': torch.ones(1)}), 'no image encoder found'),
        (lambda state: state.pop('module.proj.txt.bias'), 'missing: module.proj.txt.bias'),
        (lambda state: state.pop('module.backbone.logit_scale'), 'missing: module.backbone.logit_scale'),
        (lambda state: state.pop('module.bridger.zoom_in.2.0.weight'), 'missing: module.bridger.zoom_in.2.0.weight'),
        (lambda state: state.pop('module.bridger.linear1.1.weight'), r'stages \[0, 2\]'),
        (
            lambda state: state.update({'module.neck.aggr.0.weight': torch.ones(192, 5, 1, 1)}),
            r'aggr.0.weight \(192, 5, ',
        ),
        (
            lambda state: state.update({'module.backbone.visual.positional_embedding': torch.ones(7, 64)}),
            'form no square',
        ),
        (lambda state: state.update({'module.neck.aggr.0.weight': 'text'}), 'is no tensor'),
        (lambda state: state.update({'module.neck.aggr.1.bias': torch.ones(192, dtype=torch.int64)}), 'floating-point'),
        (lambda state: state.clear(), 'no "state_dict"'),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, match):
    checkpoint = copy.copy(published(sizes('vit')))
    change(checkpoint['state_dict'])
    with pytest.raises(ValueError, match=match):
        ETRIS.from_published(checkpoint, bridger_heads=3, head_heads=3)


@pytest.mark.parametrize(
    'options, match',
    [
        (
            dict(bridger_heads=5, head_heads=3),
            'the Bridger has width 24, which does not divide into 5 heads; give --bridger-heads',
        ),
        (dict(bridger_heads=3, head_heads=7), 'the decoder has width 192.*give --head-heads'),
        (dict(bridger_heads=3, head_heads=0), 'the decoder has width 192.*0 heads'),
        (dict(bridger_heads=3, head_heads=3, text_heads=5), 'text encoder has width 192.*give --text-heads'),
        (dict(bridger_heads=3, head_heads=3, image_heads=5), 'ViT has width 64.*give --image-heads'),
        (
            dict(bridger_heads=3, head_heads=3, context_length=41),
            "context_length=41 must lie between 3 and the text encoder's 40",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        ETRIS.from_published(published(sizes('vit')), **options)


def test_only_full_models_of_the_released_variant_go_back():
    state = dict(build(sizes('vit')).state_dict())
    with pytest.raises(ValueError, match='slim.*merge_checkpoint'):
        ETRIS.to_published(dict(state_dict=state | {'backbone.clip_fingerprint': torch.ones(3, dtype=torch.uint8)}))
    with pytest.raises(ValueError, match=re.escape('no place for: neck.other.weight')):
        ETRIS.to_published(dict(state_dict=state | {'neck.other.weight': torch.ones(1)}))
    paper = {key.replace('bridges.3', 'bridges.4'): value for key, value in state.items()}
    with pytest.raises(ValueError, match=re.escape('no place for: neck.bridges.4')):
        ETRIS.to_published(dict(state_dict=paper))
    with pytest.raises(ValueError, match='altered'):
        ETRIS.to_published(dict(state_dict=state, meta=dict(published_etris=dict(prefix='', keys=['a'], unused={}))))
