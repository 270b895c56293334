"""Checkpoints of DETRIS's code of any sizes, both ways, and what is refused."""

import dataclasses

import pytest
import torch
from mmengine.registry import init_default_scope

from mmetris.models.converters import CRIS, DETRIS, ETRIS, DETRISSizes, detris_model_cfg, infer_detris_sizes
from mmetris.models.converters.detris_keys import DETRIS_KEYS
from mmetris.models.converters.detris_sizes import default_out_blocks, stages_of
from mmetris.models.converters.shared_keys import PUBLISHED_PARTS
from mmetris.registry import MODELS

SIZES = DETRISSizes(
    family='dinov2',
    arch=dict(
        embed_dim=20,
        quick_gelu=True,
        vision_cfg={},
        text_cfg=dict(context_length=40, vocab_size=600, width=192, heads=3, layers=5, mlp_ratio=4.0),
    ),
    image_arch=dict(width=128, depth=6, num_heads=2, num_registers=3, patch_size=14, image_size=70, mlp_ratio=3.0),
    image_layers=(2, 3, 5),
    image_channels=48,
    align_dims=24,
    text_layers=(0, 4),
    text_channels=16,
    channels=48,
    head_layers=2,
    head_ffn_dims=20,
    kernel_size=5,
    input_size=448,
)
HEADS = dict(align_heads=3, head_heads=3)


def build(sizes=SIZES, **options):
    init_default_scope('mmetris')
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS.build(detris_model_cfg(sizes, **HEADS, **options)).eval()


@pytest.fixture(scope='module')
def state():
    return build().state_dict()


def as_published(state):
    """A checkpoint as DETRIS's code saves it, with what it computes nothing with."""
    weights = DETRIS.to_published(dict(state_dict=state))['state_dict']
    weights['module.txt_backbone.visual.proj'] = torch.ones(4, 20)
    weights['module.dinov2.mask_token'] = torch.ones(1, 128)
    return dict(epoch=7, best_iou=0.5, state_dict=weights)


@pytest.fixture
def published(state):
    return as_published(state)


def same(one, other):
    assert list(one) == list(other)
    assert all(torch.equal(value, other[key]) for key, value in one.items())


OTHERS = dict(
    as_it_is={},
    no_registers=dict(image_arch={**SIZES.image_arch, 'num_registers': 0}),
    other_patch=dict(image_arch={**SIZES.image_arch, 'patch_size': 16, 'image_size': 32}),
    words_from_the_first_block=dict(image_layers=(0, 1)),
    words_in_the_last_block=dict(image_layers=(5,)),
    no_image_adapters=dict(image_layers=(), image_channels=0, align_dims=0),
    no_text_adapters=dict(text_layers=(), text_channels=0),
)


@pytest.mark.parametrize('name', OTHERS)
def test_sizes_are_found_and_weights_survive_both_ways(name):
    sizes = dataclasses.replace(SIZES, **OTHERS[name])
    state = build(sizes, without_adapters=True).state_dict()
    published = as_published(state)
    without = name.endswith('_adapters')
    converted = DETRIS.from_published(published, **HEADS, without_adapters=without)
    assert converted.sizes == sizes
    assert converted.model_cfg == detris_model_cfg(sizes, **HEADS, without_adapters=without)
    if without:
        with pytest.raises(ValueError, match=f'the {name.split("_")[1]} encoder has no adapters.*--without-adapters'):
            DETRIS.from_published(published, **HEADS)
    ours = converted.checkpoint['state_dict']
    assert ours.keys() == state.keys()
    assert all(torch.equal(value, ours[key]) for key, value in state.items())
    back = DETRIS.to_published(converted.checkpoint)
    assert back.keys() == published.keys() and (back['epoch'], back['best_iou']) == (7, 0.5)
    same(back['state_dict'], published['state_dict'])


def test_names_are_each_others_inverse_and_those_of_the_published_code(state):
    published = {name: DETRIS_KEYS.published(name) for name in state if not name.endswith('tuned_by')}
    assert {DETRIS_KEYS.ours(key): key for key in published.values()} == published
    parts = {key.split('adapter.')[1].split('.')[0] for key in published.values() if 'adapter.' in key}
    assert parts == {'D_fc1', 'D_fc2', 'dense_branch1', 'dense_branch2', 'dense_branch3', 'cross'}


def test_order_prefix_and_half_precision_survive(published):
    weights = {
        key.removeprefix('module.'): value.half() if value.is_floating_point() else value
        for key, value in reversed(published['state_dict'].items())
    }
    same(
        DETRIS.to_published(DETRIS.from_published(dict(state_dict=weights), **HEADS).checkpoint)['state_dict'], weights
    )


def test_a_checkpoint_trained_here_gets_clips_temperature_and_its_epoch(state):
    back = DETRIS.to_published(dict(state_dict=state, meta=dict(epoch=12)))
    assert back['epoch'] == 12
    assert back['state_dict']['module.txt_backbone.logit_scale'].exp().item() == pytest.approx(100)
    assert DETRIS.from_published(back, **HEADS).checkpoint['state_dict'].keys() == state.keys()


def test_a_converted_checkpoint_says_by_what_it_was_tuned(published):
    """Heads leave no trace in the weights: a config with others is refused when it is loaded."""
    converted = DETRIS.from_published(published, **HEADS).checkpoint['state_dict']
    other = MODELS.build(detris_model_cfg(SIZES, align_heads=2, head_heads=3))
    with pytest.raises(ValueError, match=r'DenseAligner\(num_heads=3.*has .*DenseAligner\(num_heads=2'):
        other.load_state_dict(converted)


def test_stages_end_at_the_maps_and_before_the_first_block_that_reads_words():
    assert stages_of(12, (4, 8), 1) == ((1, 5, 9, 12), (2, 3, 4))
    assert stages_of(24, (8, 16), 2) == ((2, 9, 17, 24), (2, 3, 4))
    assert stages_of(12, (4, 8), 7) == ((5, 7, 9, 12), (1, 3, 4))
    assert (
        stages_of(12, (4, 8), 5) == stages_of(12, (4, 8), 0) == stages_of(12, (4, 8), None) == ((5, 9, 12), (1, 2, 3))
    )
    assert default_out_blocks(12) == (4, 8) and default_out_blocks(24) == (8, 16)


def test_the_config_says_what_shapes_do_not(published):
    cfg = DETRIS.from_published(
        published, **HEADS, text_heads=6, image_heads=4, context_length=22, out_blocks=(0, 3)
    ).model_cfg
    assert cfg['dual_encoder']['arch']['text_cfg']['heads'] == 6 and cfg['context_length'] == 22
    assert cfg['backbone']['arch']['num_heads'] == 4
    assert cfg['backbone']['stage_ends'] == (1, 2, 4, 6) and cfg['backbone']['out_stages'] == (1, 3, 4)


@pytest.mark.parametrize(
    'change, match',
    [
        (lambda state: state.update({'module.dinov2.extra': torch.ones(1)}), 'no place for: module.dinov2.extra'),
        (
            lambda state: state.update({'module.dinov2.blocks.2.adapter.D_fc3.weight': torch.ones(1)}),
            'no place for: module.dinov2.blocks.2.adapter.D_fc3',
        ),
        (lambda state: state.update({'module.bridger.x.weight': torch.ones(1)}), 'no place for: module.bridger.x'),
        (lambda state: state.pop('module.proj.txt.bias'), 'missing: module.proj.txt.bias'),
        (lambda state: state.pop('module.txt_backbone.logit_scale'), 'missing: module.txt_backbone.logit_scale'),
        (lambda state: state.pop('module.dinov2.pos_embed'), 'missing: module.dinov2.pos_embed'),
        (lambda state: state.pop('module.txt_backbone.token_embedding.weight'), "DETRIS's code; missing: .*token_emb"),
        (
            lambda state: state.pop('module.dinov2.blocks.3.adapter.cross.text_proj.bias'),
            'missing: module.dinov2.blocks.3.adapter.cross.text_proj.bias',
        ),
        (
            lambda state: state.update({'module.dinov2.blocks.3.adapter.D_fc1.weight': torch.ones(3, 128)}),
            r'dinov2.blocks.3.adapter.D_fc1.weight \(3, 128\)',
        ),
        (lambda state: state.update({'module.dinov2.pos_embed': torch.ones(1, 8, 128)}), '7 positions .* no square'),
        (lambda state: state.clear(), 'no "state_dict"'),
    ],
)
def test_what_does_not_fit_is_refused_by_name(published, change, match):
    change(published['state_dict'])
    with pytest.raises(ValueError, match=match):
        DETRIS.from_published(published, **HEADS)


@pytest.mark.parametrize(
    'options, match',
    [
        (dict(head_heads=7), 'the decoder has width 48, which does not divide into 7 heads; give --head-heads'),
        (dict(align_heads=5), 'the attention to the words has width 24.*give --align-heads'),
        (dict(text_heads=5), 'text encoder has width 192.*give --text-heads'),
        (dict(image_heads=5), 'the DINOv2 has width 128.*give --image-heads'),
        (dict(context_length=41), "context_length=41 must lie between 3 and the text encoder's 40"),
        (dict(out_blocks=(2, 5)), r'out_blocks=\(2, 5\) must increase and precede the last of 6 blocks, 5'),
    ],
)
def test_options_that_do_not_fit_are_refused(published, options, match):
    with pytest.raises(ValueError, match=match):
        DETRIS.from_published(published, **{**HEADS, **options})


def test_codes_are_not_taken_for_each_other(state, published):
    other = dict(state_dict={'module.bridger.linear1.0.weight': torch.ones(1)})
    cris = dict(state_dict={'module.neck.f1_v_proj.0.weight': torch.ones(1)})
    for code in (ETRIS, CRIS):
        with pytest.raises(ValueError, match=f"not one of {code.name}, but of DETRIS's code: .*detris_to_mmetris.py"):
            code.from_published(published)
        with pytest.raises(ValueError, match='no place for: backbone.*Only models of'):
            code.to_published(dict(state_dict=state))
    with pytest.raises(ValueError, match="DETRIS's code, but of the released ETRIS code: .*etris_to_mmetris.py"):
        DETRIS.from_published(other)
    with pytest.raises(ValueError, match="DETRIS's code, but of CRIS's code: .*cris_to_mmetris.py"):
        DETRIS.from_published(cris)
    assert {name for name, _ in PUBLISHED_PARTS.values()} == {code.name for code in (ETRIS, CRIS, DETRIS)}


def test_only_full_models_of_detris_go_back(state):
    with pytest.raises(ValueError, match='slim.*merge_checkpoint'):
        DETRIS.to_published(dict(state_dict=state | {'backbone.clip_fingerprint': torch.ones(3, dtype=torch.uint8)}))
    with pytest.raises(ValueError, match=r'no place for: neck.bridges.2.x. Only models of configs/detris'):
        DETRIS.to_published(dict(state_dict=state | {'neck.bridges.2.x': torch.ones(1)}))


def test_sizes_need_no_prefix_and_no_heads(published):
    plain = {key.removeprefix('module.'): value for key, value in published['state_dict'].items()}
    assert infer_detris_sizes(plain) == SIZES
