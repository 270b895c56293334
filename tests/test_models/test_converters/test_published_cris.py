"""Checkpoints of CRIS's code of any sizes, both ways, and what is refused."""

import pytest
import torch
from mmengine.registry import init_default_scope

from mmetris.models.converters import CRIS, ETRIS, PublishedSizes, cris_model_cfg, infer_cris_sizes
from mmetris.models.converters.cris_keys import CRIS_KEYS
from mmetris.registry import MODELS

SIZES = PublishedSizes(
    family='resnet',
    arch=dict(
        embed_dim=20,
        quick_gelu=True,
        vision_cfg=dict(image_size=96, width=6, layers=[1, 2, 1, 1], head_width=64),
        text_cfg=dict(context_length=40, vocab_size=600, width=192, heads=3, layers=3, mlp_ratio=4.0),
    ),
    channels=48,
    head_layers=2,
    head_ffn_dims=20,
    kernel_size=5,
    input_size=416,
)


def build(heads=3):
    init_default_scope('mmetris')
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS.build(cris_model_cfg(SIZES, heads)).eval()


@pytest.fixture(scope='module')
def state():
    return build().state_dict()


@pytest.fixture
def published(state):
    """A checkpoint as CRIS's code saves it, of random weights."""
    return dict(epoch=7, best_iou=0.5, state_dict=CRIS.to_published(dict(state_dict=state))['state_dict'])


def test_sizes_are_found_and_weights_survive_both_ways(state, published):
    converted = CRIS.from_published(published, head_heads=3)
    assert converted.sizes == SIZES
    assert converted.model_cfg == cris_model_cfg(SIZES, 3)
    ours = converted.checkpoint['state_dict']
    assert ours.keys() == state.keys()
    assert all(torch.equal(value, ours[key]) for key, value in state.items())
    back = CRIS.to_published(converted.checkpoint)
    assert back.keys() == published.keys() and (back['epoch'], back['best_iou']) == (7, 0.5)
    assert list(back['state_dict']) == list(published['state_dict'])
    assert all(torch.equal(value, back['state_dict'][key]) for key, value in published['state_dict'].items())


def test_names_are_each_others_inverse_and_those_of_the_published_code(state):
    published = {name: CRIS_KEYS.published(name) for name in state}
    assert {CRIS_KEYS.ours(key): key for key in published.values()} == published
    parts = {'.'.join(key.split('.')[:2]) for key in published.values() if key.startswith('neck.')}
    steps = {'f1_v_proj', 'f2_v_proj', 'f3_v_proj', 'f2_cat', 'f3_cat', 'f4_proj3', 'f4_proj4', 'f4_proj5'}
    assert parts == {f'neck.{part}' for part in steps | {'txt_proj', 'norm_layer', 'aggr', 'coordconv'}}


def test_order_prefix_and_half_precision_survive(published):
    weights = {
        key.removeprefix('module.'): value.half() if value.is_floating_point() else value
        for key, value in reversed(published['state_dict'].items())
    }
    back = CRIS.to_published(CRIS.from_published(dict(state_dict=weights), head_heads=3).checkpoint)
    assert list(back['state_dict']) == list(weights)
    assert all(
        back['state_dict'][key].dtype == value.dtype and torch.equal(back['state_dict'][key], value)
        for key, value in weights.items()
    )


def test_a_checkpoint_trained_here_gets_clips_temperature_and_its_epoch(state):
    back = CRIS.to_published(dict(state_dict=state, meta=dict(epoch=12)))
    assert back['epoch'] == 12
    assert back['state_dict']['module.backbone.logit_scale'].exp().item() == pytest.approx(100)
    assert CRIS.from_published(back, head_heads=3).checkpoint['state_dict'].keys() == state.keys()


def test_the_config_says_the_architecture_once_and_tunes_all(published):
    cfg = CRIS.from_published(published, head_heads=3, text_heads=6, context_length=22).model_cfg
    assert cfg['dual_encoder']['arch']['text_cfg']['heads'] == 6 and cfg['context_length'] == 22
    assert not {'arch', 'quick_gelu'} & {*cfg['backbone'], *cfg['text_encoder']}
    assert all(parameter.requires_grad for parameter in build().parameters())


def test_heads_default_to_those_of_the_published_configs(published):
    cfg = CRIS.from_published(published).model_cfg
    assert cfg['decode_head']['num_heads'] == 8
    assert cfg['dual_encoder']['arch']['text_cfg']['heads'] == 3


@pytest.mark.parametrize(
    'change, match',
    [
        (lambda state: state.update({'module.backbone.extra': torch.ones(1)}), 'no place for: module.backbone.extra'),
        (lambda state: state.update({'module.neck.f5_cat.0.weight': torch.ones(1)}), 'no place for: module.neck.f5_c'),
        (lambda state: state.update({'module.bridger.x.weight': torch.ones(1)}), 'no place for: module.bridger.x'),
        (lambda state: state.update({'other.weight': torch.ones(1)}), 'no image encoder found'),
        (lambda state: state.pop('module.proj.txt.bias'), 'missing: module.proj.txt.bias'),
        (lambda state: state.pop('module.backbone.logit_scale'), 'missing: module.backbone.logit_scale'),
        (lambda state: state.pop('module.neck.f2_v_proj.0.weight'), "CRIS's code; missing: module.neck.f2_v_proj.0.w"),
        (lambda state: state.pop('module.neck.txt_proj.1.running_mean'), 'missing: module.neck.txt_proj.1.running_m'),
        (lambda state: state.pop('module.backbone.visual.attnpool.connect.0.weight'), 'missing: .*attnpool.connect.0'),
        (lambda state: state.update({'module.backbone.visual.proj': torch.ones(9, 20)}), 'is a ViT.*ResNets only'),
        (
            lambda state: state.update({'module.neck.f3_cat.0.weight': torch.ones(48, 5, 1, 1)}),
            r'f3_cat.0.weight \(48, 5, ',
        ),
        (lambda state: state.update({'module.proj.txt.weight': torch.ones(100, 20)}), 'no square kernel'),
        (lambda state: state.update({'module.neck.aggr.0.weight': 'text'}), 'is no tensor'),
        (lambda state: state.clear(), 'no "state_dict"'),
    ],
)
def test_what_does_not_fit_is_refused_by_name(published, change, match):
    change(published['state_dict'])
    with pytest.raises(ValueError, match=match):
        CRIS.from_published(published, head_heads=3)


@pytest.mark.parametrize(
    'options, match',
    [
        (dict(head_heads=7), 'the decoder has width 48, which does not divide into 7 heads; give --head-heads'),
        (dict(head_heads=0), 'the decoder has width 48.*0 heads'),
        (dict(text_heads=5), 'text encoder has width 192.*give --text-heads'),
        (dict(image_heads=5), 'attention pool has width 192.*give --image-heads'),
        (dict(context_length=41), "context_length=41 must lie between 3 and the text encoder's 40"),
    ],
)
def test_options_that_do_not_fit_are_refused(published, options, match):
    with pytest.raises(ValueError, match=match):
        CRIS.from_published(published, **options)


def test_the_two_codes_are_not_taken_for_each_other(state, published):
    with pytest.raises(
        ValueError, match="not one of the released ETRIS code, but of CRIS's code: .*cris_to_mmetris.py"
    ):
        ETRIS.from_published(published)
    with pytest.raises(ValueError, match=r'no place for: decode_head.*Only .*configs/etris_released'):
        ETRIS.to_published(dict(state_dict=state))


def test_only_full_models_of_cris_go_back(state):
    with pytest.raises(ValueError, match='slim.*merge_checkpoint'):
        CRIS.to_published(dict(state_dict=state | {'backbone.clip_fingerprint': torch.ones(3, dtype=torch.uint8)}))
    with pytest.raises(ValueError, match=r'no place for: neck.bridges.2.x. Only models of configs/cris'):
        CRIS.to_published(dict(state_dict=state | {'neck.bridges.2.x': torch.ones(1)}))
    with pytest.raises(ValueError, match=r'meta\["published_cris"\] of the checkpoint was altered'):
        CRIS.to_published(dict(state_dict=state, meta=dict(published_cris=dict(prefix='', keys=['a'], unused={}))))


def test_sizes_need_no_prefix_and_no_heads(published):
    plain = {key.removeprefix('module.'): value for key, value in published['state_dict'].items()}
    assert infer_cris_sizes(plain) == SIZES
