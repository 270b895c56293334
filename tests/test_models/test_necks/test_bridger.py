"""Bridger: the walk past both encoders, and its parameter counts."""

import pytest
import torch

from mmetris import tokenize
from mmetris.models.necks import BridgerStage
from mmetris.utils.param_count import count_parameters
from tests.toy import build, build_model, randn

TEXTS = ['the left dog', 'a man in a red shirt']
KINDS = ('vit', 'resnet')


def features_of(model, images=None, texts=TEXTS, length=17, **kwargs):
    images = randn(2, 3, 64, 64) if images is None else images
    return model.extract_feat(images, tokenize(texts, length), **kwargs)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('size', [(64, 64), (96, 64), (64, 160)])
def test_the_decoder_receives_the_encoders_widths_and_grids(kind, size):
    model = build_model(kind).eval()
    features = features_of(model, randn(2, 3, *size))
    assert [tuple(feature_map.shape) for feature_map in features.maps] == [
        (2, spec.channels, size[0] // spec.stride, size[1] // spec.stride) for spec in model.backbone.out_specs
    ]
    assert features.words.shape == (2, 17, 16) and features.sentence.shape == (2, 24)


@pytest.mark.parametrize('kind', KINDS)
def test_an_odd_grid_works(kind):
    size = dict(vit=72, resnet=96)[kind]
    features_of(
        build_model(kind, neck=dict(scales=(0.5, 1, 2)) if kind == 'vit' else None).eval(), randn(2, 3, size, size)
    )


def zero_outputs(model):
    for bridge in model.neck.bridges.values():
        for layer in (bridge.zoom_out, bridge.words_out):
            for parameter in layer.parameters():
                torch.nn.init.zeros_(parameter)


@pytest.mark.parametrize('kind', KINDS)
def test_a_bridger_that_says_nothing_leaves_clips_features_exactly(kind):
    model = build_model(kind).eval()
    zero_outputs(model)
    without_bridger = build_model(kind, neck=dict(stages=())).eval()
    with torch.no_grad():
        bridged, without = features_of(model), features_of(without_bridger)
        clips_maps, (_, clips_sentence) = model.backbone(randn(2, 3, 64, 64)), model.text_encoder(tokenize(TEXTS, 17))
    for ours, other, clips in zip(bridged.maps, without.maps, clips_maps):
        assert torch.equal(ours, clips) and torch.equal(other, clips)
    assert torch.equal(bridged.sentence, clips_sentence) and torch.equal(without.sentence, clips_sentence)


@pytest.mark.parametrize('kind', KINDS)
def test_sentences_change_the_image_features_and_images_the_words(kind):
    model = build_model(kind).eval()
    image = randn(1, 3, 64, 64).expand(2, -1, -1, -1)
    features = features_of(model, image)
    assert not torch.allclose(features.maps[0][0], features.maps[0][1])
    same_text = features_of(model, randn(2, 3, 64, 64), texts=TEXTS[:1] * 2)
    assert not torch.allclose(same_text.sentence[0], same_text.sentence[1])


@pytest.mark.parametrize('kind', KINDS)
def test_the_result_does_not_depend_on_how_far_a_sentence_is_padded(kind):
    model = build_model(kind).eval()
    for ours, other in zip(features_of(model, length=12).maps, features_of(model, length=30).maps):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-5)


def test_without_masking_the_padding_length_matters():
    model = build_model('vit', neck=dict(mask_padding=False)).eval()
    assert not torch.allclose(features_of(model, length=12).maps[2], features_of(model, length=30).maps[2], atol=1e-4)


@pytest.mark.parametrize('kind', KINDS)
def test_a_batch_of_two_equals_two_of_one(kind):
    model = build_model(kind).eval()
    images = randn(2, 3, 64, 64)
    together = features_of(model, images)
    for row in range(2):
        alone = features_of(model, images[row : row + 1], TEXTS[row : row + 1])
        for ours, other in zip(together.maps, alone.maps):
            torch.testing.assert_close(ours[row : row + 1], other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('stages', [(2, 3, 4), (3, 4), (4,), ()])
def test_an_image_prefix_stands_for_its_images(kind, stages, monkeypatch):
    model = build_model(kind, neck=dict(stages=stages)).eval()
    images, index = randn(2, 3, 64, 64), torch.tensor([1, 0, 1])
    direct = features_of(model, images, [*TEXTS, 'dog'], image_index=index)
    prefix = model.encode_images(images)
    monkeypatch.setattr(model.backbone, 'stem', None)  # Nothing of the prefix runs again.
    later = features_of(model, prefix, [*TEXTS, 'dog'], image_index=index)
    for ours, other in zip((*later.maps, later.words, later.sentence), (*direct.maps, direct.words, direct.sentence)):
        assert torch.equal(ours, other)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('stages', [(2, 3, 4), (4,), ()])
def test_sharing_images_between_sentences_changes_nothing(kind, stages):
    model = build_model(kind, neck=dict(stages=stages)).eval()
    images, index = randn(2, 3, 64, 64), torch.tensor([1, 0, 1])
    texts = [*TEXTS, 'dog']
    shared = features_of(model, images, texts, image_index=index)
    repeated = features_of(model, images[index], texts)
    for ours, other in zip((*shared.maps, shared.sentence), (*repeated.maps, repeated.sentence)):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-5)


def test_sharing_runs_the_stages_before_the_first_bridger_once_for_each_image(monkeypatch):
    model = build_model('vit', neck=dict(stages=(3, 4))).eval()
    rows = {}
    stage = model.backbone.stage
    monkeypatch.setattr(
        model.backbone,
        'stage',
        lambda index, state: (rows.setdefault(index, len(state.tokens)), stage(index, state))[1],
    )
    features_of(model, randn(1, 3, 64, 64), ['a', 'b', 'c', 'd'], image_index=torch.zeros(4, dtype=torch.long))
    assert rows == {1: 1, 2: 1, 3: 1, 4: 4}


@pytest.mark.parametrize('kind', KINDS)
def test_gradients_reach_every_tunable_parameter_and_no_other(kind):
    model = build_model(kind).train()
    features = features_of(model)
    sum(value.square().sum() for value in (*features.maps, features.words, features.sentence)).backward()
    missing = [name for name, value in model.neck.named_parameters() if value.grad is None]
    assert missing == []
    frozen = [*model.backbone.parameters(), *model.text_encoder.parameters()]
    assert all(value.grad is None and not value.requires_grad for value in frozen)


def test_the_state_of_one_stage_reaches_the_next():
    bridge = BridgerStage(6, 5, embed_dims=8, is_first=False, interactor_cfg=dict(num_heads=2)).eval()
    feature_map, words = randn(1, 6, 4, 4), randn(1, 3, 5)
    first = BridgerStage(6, 5, embed_dims=8, interactor_cfg=dict(num_heads=2)).eval()
    memory = first(feature_map, words)[2]
    assert memory.image.shape == (1, 8, 4, 4) and memory.words.shape == (1, 3, 8)
    outputs = [
        bridge(feature_map, words, state)[0] for state in (memory, memory._replace(words=memory.words + randn(1, 3, 8)))
    ]
    assert not torch.allclose(*outputs)
    # A state from another grid is resized.
    coarse = memory._replace(image=randn(1, 8, 2, 2))
    assert bridge(feature_map, words, coarse)[0].shape == feature_map.shape


@pytest.mark.parametrize(
    'neck, message',
    [
        (dict(stages=(1,)), r'stages=\(1,\) of the Bridger'),
        (dict(scales=(1, 1)), 'scales'),
        (dict(memory='none'), "memory='none'"),
        (dict(cross_inputs='x'), "cross_inputs='x'"),
        (dict(num_heads=3), 'num_heads=3'),
    ],
)
def test_bad_arguments_are_refused(neck, message):
    with pytest.raises(ValueError, match=message):
        build_model('vit', neck=neck)


def test_images_and_sentences_must_pair_up():
    with pytest.raises(ValueError, match='3 sentences for 2 images'):
        features_of(build_model('vit'), texts=['a', 'b', 'c'])


@pytest.mark.parametrize('kind', KINDS)
def test_zero_init_leaves_clips_features_exactly_until_it_has_learned(kind):
    neck = dict(zoom_norm=False, zero_init=True)
    bridged, without = build_model(kind, neck=neck).eval(), build_model(kind, neck=dict(stages=())).eval()
    with torch.no_grad():
        for ours, clips in zip(features_of(bridged).maps, features_of(without).maps):
            assert torch.equal(ours, clips)
    optimizer = torch.optim.SGD(bridged.neck.parameters(), lr=0.1)
    features_of(bridged).maps[-1].square().sum().backward()
    optimizer.step()
    assert not torch.equal(features_of(bridged).maps[0], features_of(without).maps[0])


def test_zero_init_behind_a_relu_is_refused():
    with pytest.raises(ValueError, match='zoom_norm=True'):
        build_model('vit', neck=dict(zoom_norm=True, zero_init=True))


@pytest.mark.parametrize('neck', [{}, dict(cross_inputs='input'), dict(stages=(2, 3))])
def test_without_the_last_update_of_words_no_parameter_is_unused_and_the_maps_are_the_same(neck):
    full, short = (
        build_model('resnet', neck=neck | dict(dropout=0, update_last_words=update)).train() for update in (True, False)
    )
    missing, unexpected = full.neck.load_state_dict(short.neck.state_dict(), strict=False)
    last = full.neck.stages[-1]
    assert not unexpected and {name.split('.')[1] for name in missing} == {str(last)}
    assert {name.split('.')[2] for name in missing} == {'words_out', 'words_interactor'}
    maps = features_of(short).maps
    for ours, other in zip(maps, features_of(full).maps):
        assert torch.equal(ours, other)
    sum(feature_map.square().sum() for feature_map in maps).backward()
    assert [name for name, value in short.neck.named_parameters() if value.grad is None] == []


def full_size(arch, **neck):
    kind = 'CLIPResNet' if arch.startswith('RN') else 'CLIPViT'
    with torch.device('meta'):
        return count_parameters(
            build(
                dict(
                    type='ReferringSegmentor',
                    backbone=dict(type=kind, arch=arch),
                    text_encoder=dict(type='CLIPTextEncoder', arch=arch),
                    neck=dict(type='Bridger', **neck),
                    decode_head=dict(type='ETRISHead'),
                )
            )
        )


@pytest.mark.parametrize(
    'arch, neck, count',
    [
        ('RN101', {}, 1_942_080),  # Table 1: 1.94 M
        ('RN50', {}, 1_942_080),  # Table 1 prints 1.68 M, which does not follow from the text.
        ('ViT-B-16', dict(scales=(0.5, 1, 2), zoom_norm=True), 1_390_016),  # Table 1: 1.39 M
        ('RN101', dict(embed_dims=8), 223_272),  # Table 7, from here: 0.22 M
        ('RN101', dict(embed_dims=16), 450_384),  # 0.45 M
        ('RN101', dict(embed_dims=32), 923_040),  # 0.92 M
        ('RN101', dict(embed_dims=128), 4_275_072),  # 4.28 M
        ('RN101', dict(stages=(2,)), 428_736),  # Table 4, from here: 0.43 M
        ('RN101', dict(stages=(3,)), 297_664),  # printed as 0.29 M
        ('RN101', dict(stages=(4,)), 1_215_168),  # 1.22 M
        ('RN101', dict(stages=(2, 3)), 726_656),  # printed as 0.72 M
        ('RN101', dict(stages=(3, 4)), 1_513_088),  # 1.51 M
        ('RN101', dict(zoom_kind='linear', input_hw=(416, 416)), 5_766_641),  # Table 5, from here: 5.77 M
        ('RN101', dict(zoom_kind='conv_interpolate'), 1_450_560),  # 1.45 M
        ('RN101', dict(zoom_kind='mlp', input_hw=(416, 416)), 1_682_633),  # 1.68 M
        ('RN101', dict(stages=()), 0),
    ],
)
def test_the_count_is_the_papers(arch, neck, count):
    assert full_size(arch, **neck)['bridger'] == count


def test_full_tuning_counts_the_whole_clip_with_its_shortcut():
    frozen = dict(frozen=False)
    with torch.device('meta'):
        counts = count_parameters(
            build(
                dict(
                    type='ReferringSegmentor',
                    backbone=dict(type='CLIPResNet', arch='RN101', pool_shortcut=True, **frozen),
                    text_encoder=dict(type='CLIPTextEncoder', arch='RN101', **frozen),
                    neck=dict(type='Bridger', stages=()),
                    decode_head=dict(type='ETRISHead'),
                )
            )
        )
    assert counts['backbone_tunable'] == 120_737_632  # Table 2: 120.74 M
    assert counts['frozen'] == 0 and counts['total'] == 120_737_632 + counts['head']
