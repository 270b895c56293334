"""Each of open_clip's names that is accepted gives open_clip's own features: the towers as they are called there, and
the encoders in stages. The towers are made small, all fields that are no sizes stay what they are; names that differ in
sizes only are then the same test."""

import json
import logging

import open_clip
import pytest
import torch

from mmetris.models.backbones import CLIPResNet, CLIPViT
from mmetris.models.clip import DualEncoder, build_image_tower, build_text_tower, resolve_arch
from mmetris.models.clip.arch import image_refusal, is_resnet, is_timm, text_refusal
from mmetris.models.text_encoders import ClassText, CLIPTextEncoder
from tests.toy import randn

logging.getLogger().setLevel(logging.ERROR)  # open_clip warns of random weights at each of a hundred models.
CLOSE = dict(rtol=1e-5, atol=1e-5)
CONFIGS = {name: open_clip.get_model_config(name) for name in open_clip.list_models()}
# timm's towers have tests of their own (test_backbones/test_timm_clip.py).
IMAGE_NAMES = [
    name
    for name, config in CONFIGS.items()
    if not image_refusal(config['vision_cfg']) and not is_timm(config['vision_cfg'])
]
TEXT_NAMES = [name for name, config in CONFIGS.items() if not text_refusal(config['text_cfg'])]
SMALL_IMAGE = dict(layers=2, width=16, head_width=8, image_size=32, patch_size=8)
SMALL_TEXT = dict(vocab_size=120, width=16, heads=2, layers=2)
VOCABULARY = dict(classes=['dog', 'cat'], templates=['a {}', 'the {} there'])


def shrunk(name):
    """The name's config with sizes of a few thousand parameters, and no tokenizer: none of the towers' business."""
    config = CONFIGS[name]
    image = dict(width=8, layers=(1, 1, 1, 1), image_size=64) if is_resnet(config['vision_cfg']) else SMALL_IMAGE
    text = {
        key: value for key, value in config['text_cfg'].items() if key not in ('hf_tokenizer_name', 'tokenizer_kwargs')
    }
    return dict(config, embed_dim=24, vision_cfg=config['vision_cfg'] | image, text_cfg=text | SMALL_TEXT)


def distinct(names, side):
    """One name for each different small config of a side."""
    found = {}
    for name in names:
        config = {key: value for key, value in shrunk(name).items() if not key.endswith('_cfg') or key == side}
        found.setdefault(json.dumps(config, sort_keys=True), name)
    return list(found.values())


def open_clips(name, config, **small):
    """open_clip's own model of that name with random weights, none of them zero or one."""
    small = {key: config[key] for key in ('embed_dim', 'vision_cfg', 'text_cfg')} | small
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model(name, pretrained=None, **small).eval()
        for key, parameter in model.named_parameters():
            if parameter.dim() < 2 and 'logit' not in key:
                parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def described(name, config):
    """Our description of it: as the name says, but for the sizes."""
    return resolve_arch(config, resolve_arch(name).quick_gelu)


@pytest.mark.parametrize('name', sorted({*IMAGE_NAMES, *TEXT_NAMES}))
def test_the_description_is_open_clips(name):
    arch, config = resolve_arch(name), CONFIGS[name]
    assert (arch.name, arch.embed_dim, arch.vision, arch.text) == (
        name,
        config['embed_dim'],
        config['vision_cfg'],
        config['text_cfg'],
    )
    assert arch.quick_gelu == config.get('quick_gelu', False)


@pytest.mark.parametrize('name', distinct(IMAGE_NAMES, 'vision_cfg'))
def test_image_features_are_open_clips(name):
    config = shrunk(name)
    model = open_clips(name, config, text_cfg=SMALL_TEXT)
    kind = CLIPResNet if is_resnet(config['vision_cfg']) else CLIPViT
    stages = {} if kind is CLIPResNet else dict(num_stages=2, out_stages=(1, 2))
    encoder = kind(described(name, config), **stages).eval()
    encoder.tower.load_state_dict(model.visual.state_dict())
    images = randn(2, 3, 64, 64) if kind is CLIPResNet else randn(2, 3, 32, 32)
    with torch.no_grad():
        own, theirs = encoder.tower(images), model.visual(images)
        maps = encoder(images)
        expected = model.visual.forward_intermediates(images)
    # Some towers give their tokens too.
    torch.testing.assert_close(own, theirs, **CLOSE)
    wanted = expected['image_intermediates'][-len(maps) :]
    for feature_map, other in zip(maps[:-1], wanted[:-1]):
        torch.testing.assert_close(feature_map, other, **CLOSE)
    if kind is CLIPViT:
        with torch.no_grad():
            patches = model.visual.ln_post(wanted[-1].flatten(2).transpose(1, 2)) @ model.visual.proj
        torch.testing.assert_close(maps[-1].flatten(2).transpose(1, 2), patches, **CLOSE)
    else:
        with torch.no_grad():  # What the pool asks everywhere, asked for the mean as CLIP does.
            torch.testing.assert_close(model.visual.attnpool(encoder_state(encoder, images)), theirs, **CLOSE)


def encoder_state(encoder, images):
    """State after the last stage."""
    state = encoder.stem(images)
    for index in range(1, encoder.num_stages + 1):
        state = encoder.stage(index, state)
    return state


def sentences(text_cfg):
    """Tokens (3, L) of sentences of different lengths, one [EOS] each, and the number of their tokens."""
    length, end = text_cfg.get('context_length', 77), text_cfg.get('eos_id', 2)
    counts = (5, 10, min(21, length - 1))
    tokens = torch.zeros(3, length, dtype=torch.long)
    for row, count in enumerate(counts):
        tokens[row, :count] = torch.randint(3, 118, (count,), generator=torch.Generator().manual_seed(row))
        tokens[row, count - 1] = end if text_cfg.get('pool_type') == 'eos' else 119
    return tokens, counts


@pytest.mark.parametrize('name', distinct(TEXT_NAMES, 'text_cfg'))
def test_text_features_are_open_clips(name):
    config = shrunk(name)
    vision = dict(SMALL_IMAGE, layers=1)
    model = open_clips(name, config, vision_cfg=vision)
    encoder = CLIPTextEncoder(described(name, config), num_stages=2, out_stages=(1, 2)).eval()
    theirs = model.text if hasattr(model, 'text') else model
    encoder.tower.load_state_dict(theirs.state_dict(), strict=hasattr(model, 'text'))
    tokens, counts = sentences(config['text_cfg'])
    with torch.no_grad():
        words, sentence = encoder(tokens)
        torch.testing.assert_close(sentence, model.encode_text(tokens), **CLOSE)
        torch.testing.assert_close(encoder.tower(tokens), model.encode_text(tokens), **CLOSE)
        last = model.forward_intermediates(text=tokens)['text_intermediates'][-1]
        torch.testing.assert_close(words, theirs.ln_final(last), **CLOSE)
        assert sentence.shape[1] == encoder.output_dims
        trimmed = encoder.trim(tokens)
        torch.testing.assert_close(encoder(trimmed)[1], sentence, **CLOSE)
        assert trimmed.shape[1] == (counts[-1] if encoder.any_length else tokens.shape[1])
    assert encoder.padding_mask(tokens).sum(1).tolist() == [tokens.shape[1] - count for count in counts]


@pytest.mark.parametrize('name', ['ViT-L-14-CLIPA', 'MobileCLIP-S1'])
def test_a_tower_whose_features_depend_on_the_length_takes_its_own_only(name):
    encoder = CLIPTextEncoder(described(name, shrunk(name)), num_stages=2, out_stages=(1, 2))
    length = encoder.tower.context_length
    with pytest.raises(ValueError, match=f'depend on the length.*set context_length .* to {length}, not 17'):
        encoder(torch.ones(1, 17, dtype=torch.long))


@pytest.mark.parametrize('name', ['ViT-B-16', 'ViT-B-16-SigLIP', 'ViT-SO400M-16-SigLIP-i18n-256', 'MobileCLIP-S1'])
def test_class_names_have_the_sentences_features(name):
    config = shrunk(name)
    config['text_cfg'].update(vocab_size=49408)
    encoder = ClassText(VOCABULARY, arch=described(name, config), num_stages=2, out_stages=(1, 2)).eval()
    prompts = encoder.tokenizer(list(encoder.vocabulary.prompts), encoder.tower.context_length)
    with torch.no_grad():
        names = encoder.for_names()
        if name == 'ViT-B-16-SigLIP':  # Pooled at the last position.
            assert torch.equal(encoder.end_position(prompts), torch.full((4,), encoder.tower.context_length - 1))
        words, features = names.tail(names.features[-1], names.ids(1))
        singles = encoder.tail(encoder_state_of_text(encoder, prompts), prompts)
        ends = singles[0][torch.arange(4), encoder.end_position(prompts)]
        assert features.shape == (2, encoder.output_dims) and words.shape == (2, encoder.embed_dims)
        torch.testing.assert_close(encoder.project(ends), singles[1])


def encoder_state_of_text(encoder, tokens):
    words = encoder.embed(tokens)
    for index in range(1, encoder.num_stages + 1):
        words = encoder.stage(index, words)
    return words


@pytest.mark.parametrize('name', ['ViT-S-32-alt', 'RN50-quickgelu'])
def test_image_features_of_full_size_are_open_clips(name):
    model = open_clips(name, CONFIGS[name], text_cfg=SMALL_TEXT)
    arch = DualEncoder.describe(name)
    tower = build_image_tower(arch).eval()
    tower.load_state_dict(model.visual.state_dict())
    size = arch.vision['image_size']
    with torch.no_grad():
        torch.testing.assert_close(tower(randn(1, 3, size, size)), model.encode_image(randn(1, 3, size, size)), **CLOSE)


@pytest.mark.parametrize('name', ['ViT-S-32-alt', 'MobileCLIP-S1'])
def test_text_features_of_full_size_are_open_clips(name):
    model = open_clips(name, CONFIGS[name], vision_cfg=SMALL_IMAGE)
    arch = DualEncoder.describe(name)
    tower = build_text_tower(arch).eval()
    tower.load_state_dict(getattr(model, 'text', model).state_dict(), strict=hasattr(model, 'text'))
    tokens = arch.tokenizer('the left dog')
    with torch.no_grad():
        torch.testing.assert_close(tower(tokens), model.encode_text(tokens), **CLOSE)


@pytest.mark.parametrize('name', [name for name in IMAGE_NAMES if name in TEXT_NAMES])
def test_keys_and_shapes_of_full_size_are_open_clips(name):
    arch = resolve_arch(name)
    with torch.device('meta'):
        model = open_clip.create_model(name, pretrained=None, device='meta')
        image, text = build_image_tower(arch), build_text_tower(arch)
    own = {f'visual.{key}': value.shape for key, value in image.state_dict().items()}
    own |= {key: value.shape for key, value in text.state_dict().items()}
    theirs = {key.removeprefix('text.'): value.shape for key, value in model.state_dict().items()}
    assert own == {key: shape for key, shape in theirs.items() if key not in ('logit_scale', 'logit_bias')}
