"""CLIP architectures by name and by sizes, and which of open_clip's names can be encoders in stages."""

from pathlib import Path

import open_clip
import pytest
import torch

from mmetris.models.clip import build_image_tower, build_text_tower, resolve_arch
from mmetris.models.clip.arch import image_refusal, text_refusal
from mmetris.models.text_encoders import CLIPTextEncoder
from tests.toy import VIT

NAMES = ['RN50', 'RN101', 'RN50x4', 'RN50x16', 'ViT-B-16', 'ViT-B-32', 'ViT-L-14', 'ViT-L-14-336']
DOC = Path(__file__).parents[3] / 'docs' / 'encoders.md'


@pytest.mark.parametrize('name', NAMES)
def test_every_architecture_of_openai_builds(name):
    arch = resolve_arch(f'{name}-quickgelu')
    with torch.device('meta'):
        image, text = build_image_tower(arch), build_text_tower(arch)
    assert image.output_dim == arch.embed_dim == text.text_projection.shape[1]
    assert arch.is_resnet == name.startswith('RN') and arch.quick_gelu and not resolve_arch(name).quick_gelu


@pytest.mark.parametrize('spelling', ['ViT-B/16', 'ViT-B-16'])
def test_names_may_be_written_as_openai_or_open_clip_do(spelling):
    assert resolve_arch(spelling).name == 'ViT-B-16'


def test_openais_336_pixel_model_is_found_under_its_own_spelling():
    assert resolve_arch('ViT-L/14@336px').vision['image_size'] == 336


@pytest.mark.parametrize(
    'arch, message',
    [
        ('ViT-X-99', "arch='ViT-X-99' is no architecture"),
        ('ViT-L-16-quickgelu', 'is no architecture'),
        ('hf-hub:timm/ViT-B-16-SigLIP', 'is no architecture'),
        (dict(embed_dim=8), r"lacks \['text_cfg', 'vision_cfg'\]"),
        (VIT | dict(quick_gleu=True), r"does not know: \['quick_gleu'\]"),
        ('coca_ViT-B-32', "'coca_ViT-B-32' can be no encoder in stages.*attentional_pool.*embed_cls"),
    ],
)
def test_what_cannot_be_built_is_refused(arch, message):
    with pytest.raises(ValueError, match=message):
        resolve_arch(arch)


@pytest.mark.parametrize(
    'key, fields, message',
    [
        ('vision_cfg', dict(head_width=7), 'width 32 is not a multiple of head_width 7'),
        ('vision_cfg', dict(pool='tok'), "vision_cfg of arch 'custom'.*pool"),
        ('vision_cfg', dict(patch_dropout=0.5), 'patch_dropout would leave holes'),
        ('vision_cfg', dict(image_size=(64, 32)), r'image_size=\(64, 32\) is not square'),
        ('vision_cfg', dict(attentional_pool=True), 'attentional_pool'),
        ('vision_cfg', dict(timm_model_name='vitamin_small_224'), "timm's vitamin_small_224"),
        ('text_cfg', dict(heads=3), 'width 16 is not a multiple of heads 3'),
        ('text_cfg', dict(hidden=3), "text_cfg of arch 'custom'.*hidden"),
        ('text_cfg', dict(embed_cls=True), 'embed_cls'),
        ('text_cfg', dict(pool_type='none'), "pool_type='none'"),
        ('text_cfg', dict(hf_model_name='roberta-base'), "Hugging Face's roberta-base"),
    ],
)
def test_a_side_that_does_not_fit_is_refused_and_the_other_is_built(key, fields, message):
    arch = resolve_arch(VIT | {key: VIT[key] | fields})
    sides = dict(vision_cfg=build_image_tower, text_cfg=build_text_tower)
    with pytest.raises(ValueError, match=message):
        sides.pop(key)(arch)
    (other,) = sides.values()
    other(arch)


def test_a_text_encoder_whose_tokenizer_is_missing_is_refused_by_name():
    config = open_clip.get_model_config('ViT-L-14-worldwide')
    small = dict(config['text_cfg'], vocab_size=120, width=16, heads=2, layers=2)
    with pytest.raises(ValueError, match="arch 'custom' cannot be asked: its tokenizer is google/mt5-base"):
        CLIPTextEncoder(config | dict(text_cfg=small), num_stages=2, out_stages=(2,))


def documented():
    """Name -> the table's cells about its image and its text side, e.g. ``('yes', "timm's")``."""
    rows = [line.strip('| ').split(' | ') for line in DOC.read_text().splitlines() if line.startswith('| `')]
    return {name: (image, text) for names, image, text in rows for name in names.strip('`').split('` `')}


def expected(name):
    """What the table has to say, from the code."""
    arch = open_clip.get_model_config(name)
    image, text = image_refusal(arch['vision_cfg']), text_refusal(arch['text_cfg'])
    tokenizer = arch['text_cfg'].get('hf_tokenizer_name')
    return _in_short(image), _in_short(text) if text or not tokenizer else 'with its tokenizer'


def _in_short(reason):
    if reason is None:
        return 'yes'
    (word,) = [word for word in ('timm', 'Hugging Face', 'attentional_pool', 'embed_cls') if word in reason]
    return f'no: {word}'


@pytest.mark.parametrize('name', open_clip.list_models())
def test_the_table_of_the_documentation_says_what_is_refused_and_why(name):
    assert documented().get(name) == expected(name)
