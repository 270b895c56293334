"""CLIP weights in every form they are published in, and what must not be loaded."""

import dataclasses
import logging
import pickle

import pytest
import torch
from mmengine.logging import MMLogger
from open_clip import CLIP
from safetensors.torch import save_file

from mmetris import tokenize
from mmetris.models.clip import ClipWeights, DualEncoder
from mmetris.models.clip.weights import load_clip_weights, load_tower
from tests.toy import RESNET, VIT, build, encoder_cfgs, randn

ARCHS = dict(vit=VIT, resnet=RESNET)


def make_clip(kind):
    torch.manual_seed(0)
    return CLIP(**ARCHS[kind], quick_gelu=True).eval()


def save_jit(clip, path):
    """As OpenAI's archives: TorchScript of the whole model, whose state dict is read."""
    traced = torch.jit.trace(clip, (randn(1, 3, 64, 64), torch.ones(1, 77, dtype=torch.long)), check_trace=False)
    torch.jit.save(traced, path)


FORMS = dict(
    jit=('clip.pt', save_jit),
    openai_state_dict=(
        'clip.pt',
        lambda clip, path: torch.save(
            clip.state_dict()
            | dict(input_resolution=torch.tensor(64), context_length=torch.tensor(77), vocab_size=torch.tensor(49408)),
            path,
        ),
    ),
    open_clip_checkpoint=(
        'clip.pt',
        lambda clip, path: torch.save(
            dict(epoch=3, state_dict={f'module.{key}': value for key, value in clip.state_dict().items()}), path
        ),
    ),
    half=(
        'clip.pth',
        lambda clip, path: torch.save({key: value.half() for key, value in clip.state_dict().items()}, path),
    ),
    safetensors=(
        'clip.safetensors',
        lambda clip, path: save_file(
            {key: value.contiguous() for key, value in clip.state_dict().items()},
            path,
            metadata=dict(quick_gelu='true'),
        ),
    ),
)


def load(kind, path, **kwargs):
    encoders = [build(cfg | dict(clip_checkpoint=str(path)) | kwargs, seed=1) for cfg in encoder_cfgs(kind)]
    for encoder in encoders:
        encoder.init_weights()
    return encoders


@pytest.mark.parametrize('kind', ARCHS)
@pytest.mark.parametrize('form', FORMS)
def test_every_form_gives_the_same_weights(tmp_path, kind, form):
    clip = make_clip(kind)
    name, save = FORMS[form]
    save(clip, str(tmp_path / name))
    image, text = load(kind, tmp_path / name)
    tolerance = dict(rtol=1e-3, atol=1e-4) if form == 'half' else dict(rtol=0, atol=0)
    for tower, state in ((image.tower, clip.visual.state_dict()), (text.tower, clip.state_dict())):
        for key, value in tower.state_dict().items():
            if key.endswith('num_batches_tracked'):
                continue
            torch.testing.assert_close(value, state[key], **tolerance)


@pytest.mark.parametrize('form', FORMS)
def test_every_form_tells_the_scale_of_the_logits(tmp_path, form):
    clip = make_clip('vit')
    clip.logit_scale.data.fill_(3.5)
    name, save = FORMS[form]
    save(clip, str(tmp_path / name))
    assert load_clip_weights(str(tmp_path / name), DualEncoder.describe(VIT)).logit_scale == 3.5


def test_weights_load_only_when_asked_to_initialise(tmp_path):
    clip = make_clip('vit')
    torch.save(clip.state_dict(), tmp_path / 'clip.pth')
    encoder = build(encoder_cfgs('vit')[0] | dict(clip_checkpoint=str(tmp_path / 'clip.pth')), seed=1)
    assert not torch.equal(encoder.tower.conv1.weight, clip.visual.conv1.weight)


def test_a_missing_file_says_what_to_put_where(tmp_path):
    path = tmp_path / 'ViT-B-16.pt'
    with pytest.raises(FileNotFoundError, match=r"ViT-B-16.pt'.*Put OpenAI's archive.*at that path"):
        load('vit', path)


def test_another_architectures_file_is_refused_and_described(tmp_path):
    torch.save(make_clip('resnet').state_dict(), tmp_path / 'rn.pth')
    with pytest.raises(
        ValueError, match=r'does not fit the image encoder custom.*ResNet of \[1, 1, 1, 1\] blocks.*missing.*Set arch'
    ):
        load('vit', tmp_path / 'rn.pth')


def test_other_widths_are_named(tmp_path):
    wide = VIT | dict(vision_cfg=VIT['vision_cfg'] | dict(width=64))
    torch.save(CLIP(**wide, quick_gelu=True).state_dict(), tmp_path / 'wide.pth')
    with pytest.raises(ValueError, match=r'ViT of width 64.*other shape: .*\(64,\) instead of \(32,\)'):
        load('vit', tmp_path / 'wide.pth')


def test_a_file_that_is_no_clip_is_refused(tmp_path):
    torch.save(dict(weight=torch.zeros(1)), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='holds no CLIP model'):
        load('vit', tmp_path / 'x.pth')


class Evil:
    def __reduce__(self):
        import os

        return os.mkdir, ('executed',)


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(dict(weight=Evil()), tmp_path / 'evil.pth')
    (tmp_path / 'evil.pt').write_bytes(pickle.dumps(Evil()))
    for name in ('evil.pth', 'evil.pt'):
        with pytest.raises(ValueError, match=f'{name} cannot be read'):
            load('vit', tmp_path / name)
    assert not (tmp_path / 'executed').exists()


@pytest.mark.parametrize('name', ['clip.pth', 'clip.safetensors', 'clip.pt'])
def test_a_cut_off_file_is_refused(tmp_path, name):
    save = dict(FORMS.values())[name]
    path = tmp_path / name
    save(make_clip('vit'), str(path))
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=name):
        load('vit', path)


@pytest.fixture
def warnings():
    """Texts of what mmetris warns of."""
    texts = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: texts.append(record.getMessage())
    logger = MMLogger.get_instance('quick_gelu_test')
    logger.addHandler(handler)
    yield texts
    logger.removeHandler(handler)


def load_as(arch, path, **kwargs):
    """Load both sides of a description."""
    dual = DualEncoder.describe(arch, str(path), **kwargs)
    towers = dual.build_image_tower(), dual.build_text_tower()
    for part, tower in zip(('image', 'text'), towers):
        dual.load(tower.state_dict(), part)
    return towers


def test_an_activation_that_was_asked_for_is_kept_with_a_warning(tmp_path, warnings):
    FORMS['safetensors'][1](make_clip('vit'), str(tmp_path / 'clip.safetensors'))
    load('vit', tmp_path / 'clip.safetensors', quick_gelu=False)
    assert ['Set quick_gelu=True' in text for text in warnings] == [True, True]  # One for each encoder.
    warnings.clear()
    load_as(VIT | dict(quick_gelu=False), tmp_path / 'clip.safetensors')
    assert ['as was asked for: features will be off. Set quick_gelu=True' in text for text in warnings] == [True, True]


def features(encoders):
    """What both encoders say of an image and a sentence."""
    with torch.no_grad():
        return [*encoders[0](randn(1, 3, 64, 64)), *encoders[1](tokenize('the left dog', 9))]


def test_an_activation_that_was_only_assumed_follows_the_weights_and_is_remembered(tmp_path, warnings):
    state = make_clip('vit').state_dict()
    save_file(state, str(tmp_path / 'exact.safetensors'), metadata=dict(quick_gelu='False'))
    followed = load('vit', tmp_path / 'exact.safetensors', quick_gelu=None)
    assert ['follows the weights. Set quick_gelu=False on both' in text for text in warnings] == [True, True]
    expected = features(load('vit', tmp_path / 'exact.safetensors', quick_gelu=False))
    torch.testing.assert_close(features(followed), expected, rtol=0, atol=0)
    others = [build(cfg | dict(quick_gelu=None), seed=5) for cfg in encoder_cfgs('vit')]
    for encoder, other in zip(followed, others):
        other.load_state_dict(encoder.state_dict())  # No file of CLIP is read here.
        assert not other.state_dict()['quick_gelu']
        # A checkpoint from before the weights were followed says nothing, and changes nothing.
        other.load_state_dict({key: value for key, value in encoder.state_dict().items() if key != 'quick_gelu'})
    torch.testing.assert_close(features(others), expected, rtol=0, atol=0)


@pytest.mark.parametrize('form', ['jit', 'openai_state_dict', 'safetensors'])
def test_openais_files_tell_their_activation(tmp_path, form, warnings):
    name, save = FORMS[form]
    save(make_clip('vit'), str(tmp_path / name))
    exact = DualEncoder.describe(VIT | dict(quick_gelu=False), str(tmp_path / name))
    assert dataclasses.replace(exact, activation_is_given=False).load(
        dict(exact.build_image_tower().named_parameters()), 'image'
    )
    assert 'was trained with QuickGELU' in warnings[0] and name in warnings[0]


def test_the_warning_names_the_name_that_is_right(tmp_path, warnings):
    weights = ClipWeights('ViT-B-16.pt', {}, {}, quick_gelu=True)
    with torch.device('meta'):
        state = DualEncoder.describe('ViT-B-16').build_text_tower().state_dict()
    assert load_tower(state, state, weights, DualEncoder.describe('ViT-B-16'), 'text')
    assert "or arch='ViT-B-16-quickgelu'" in warnings[0]


def test_a_file_that_does_not_tell_is_warned_about_where_nobody_says_it(tmp_path, warnings):
    FORMS['half'][1](make_clip('vit'), tmp_path / 'clip.pth')
    load_as(VIT, tmp_path / 'clip.pth')
    assert ['does not tell its activation' in text for text in warnings] == [True, True]
    warnings.clear()
    load_as(VIT, tmp_path / 'clip.pth', quick_gelu=False)
    assert not warnings


def test_a_resnet_has_no_activation_to_disagree_about(tmp_path, warnings):
    FORMS['safetensors'][1](make_clip('resnet'), str(tmp_path / 'clip.safetensors'))
    dual = DualEncoder.describe(RESNET, str(tmp_path / 'clip.safetensors'), quick_gelu=False)
    dual.load(dual.build_image_tower().state_dict(), 'image')
    assert not warnings
    dual.load(dual.build_text_tower().state_dict(), 'text')
    assert 'QuickGELU' in warnings[0]


@pytest.mark.parametrize('text_key', ['text_decoder.token_embedding.weight', 'text.transformer.embeddings.weight'])
def test_one_side_is_loaded_from_a_file_whose_other_side_is_none_of_ours(tmp_path, text_key):
    clip = make_clip('vit')
    state = {f'visual.{key}': value for key, value in clip.visual.state_dict().items()}
    torch.save(state | {text_key: torch.zeros(3, 2), 'text.x': torch.zeros(1)}, tmp_path / 'clip.pth')
    dual = DualEncoder.describe(VIT, str(tmp_path / 'clip.pth'), quick_gelu=True)
    tower = dual.build_image_tower()
    dual.load(tower.state_dict(), 'image')
    assert torch.equal(tower.proj, clip.visual.proj)
    with pytest.raises(ValueError, match=r'does not fit the text encoder.*4 blocks; another text tower.*missing'):
        dual.load(dual.build_text_tower().state_dict(), 'text')


def test_features_follow_the_activation():
    images = randn(1, 3, 64, 64)
    quick, exact = (build(encoder_cfgs('vit', quick_gelu=flag)[0]) for flag in (True, False))
    assert not torch.allclose(quick(images)[0], exact(images)[0], atol=1e-6)
    clip = CLIP(**VIT, quick_gelu=False).eval()
    clip.visual.load_state_dict(exact.tower.state_dict())
    expected = clip.visual.forward_intermediates(images, indices=[1])['image_intermediates'][0]
    torch.testing.assert_close(exact(images)[0], expected, rtol=1e-5, atol=1e-5)
