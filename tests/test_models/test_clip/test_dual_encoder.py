"""One description of a dual encoder: activation, normalisation, tokenizer and weights."""

import copy
import pickle

import open_clip
import pytest
import torch
from mmengine.config import ConfigDict
from open_clip.transformer import QuickGELU

from mmetris.models.clip import DualEncoder
from mmetris.models.layers.quick_gelu import FusedQuickGELU
from mmetris.utils.tokenizer import CLIP_TOKENIZER, BytePairTokenizer, HuggingFaceTokenizer
from tests.toy import VIT

OPENAI = (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    'arch, kwargs, quick_gelu, is_given',
    [
        ('ViT-B-16', {}, False, False),
        ('ViT-B-16-quickgelu', {}, True, True),
        ('ViT-B-16', dict(checkpoint='openai'), True, True),
        ('ViT-B-16', dict(checkpoint='laion2b_s34b_b88k'), False, True),
        ('ViT-B-16', dict(checkpoint='ViT-B-16.pt'), False, False),
        ('ViT-B-16', dict(quick_gelu=True), True, True),
        ('ViT-B-16', dict(checkpoint='openai', quick_gelu=False), False, True),
        ('roberta-ViT-B-32', {}, True, False),  # Only open_clip's config says so.
        (VIT, {}, True, False),  # As in OpenAI's weights.
        (VIT | dict(quick_gelu=True), {}, True, True),
        (VIT | dict(quick_gelu=True), dict(quick_gelu=False), False, True),
    ],
)
def test_the_activation_is_what_argument_name_tag_and_config_say_in_this_order(arch, kwargs, quick_gelu, is_given):
    dual = DualEncoder.describe(arch, **kwargs)
    assert (dual.quick_gelu, dual.activation_is_given) == (quick_gelu, is_given)


@pytest.mark.parametrize('quick_gelu', [True, False])
def test_both_towers_have_the_activation_in_its_fused_form(quick_gelu):
    dual = DualEncoder.describe(VIT, quick_gelu=quick_gelu)
    for tower in (dual.build_image_tower(), dual.build_text_tower()):
        kinds = {type(block.mlp.gelu) for block in tower.transformer.resblocks}
        assert kinds == {FusedQuickGELU if quick_gelu else torch.nn.GELU}
        assert not any(type(module) is QuickGELU for module in tower.modules())


@pytest.mark.parametrize(
    'arch, checkpoint, expected',
    [
        ('ViT-B-16', None, OPENAI),
        ('ViT-B-16', 'some_file.pt', OPENAI),
        ('ViT-L-14', 'laion2b_s32b_b82k', HALF),
        ('ViT-L-14', 'laion400m_e32', OPENAI),
        ('ViT-L-14', None, OPENAI),  # Its tags differ.
        ('ViT-L-14-CLIPA', 'some_file.safetensors', IMAGENET),
        ('ViT-B-16-SigLIP', None, HALF),
        (VIT, None, OPENAI),
    ],
)
def test_the_normalisation_is_that_of_the_weights(arch, checkpoint, expected):
    dual = DualEncoder.describe(arch, checkpoint)
    assert (dual.mean, dual.std) == expected


def test_a_config_may_say_the_normalisation():
    dual = DualEncoder.describe('ViT-L-14-CLIPA', std=[0.1, 0.2, 0.3])
    assert (dual.mean, dual.std) == (IMAGENET[0], (0.1, 0.2, 0.3))


@pytest.mark.parametrize('wrong', [[123.7, 116.3, 103.5], [0.5]])
def test_a_normalisation_on_another_scale_is_refused(wrong):
    with pytest.raises(ValueError, match='mean=.*three values from 0 to 1'):
        DualEncoder.describe('ViT-B-16', mean=wrong)


def test_the_tokenizer_is_the_architectures():
    assert DualEncoder.describe('ViT-B-16').available_tokenizer() is not None
    assert DualEncoder.describe('ViT-B-16').tokenizer == CLIP_TOKENIZER
    assert DualEncoder.describe('ViT-L-14-CLIPA').tokenizer == HuggingFaceTokenizer(
        source='bert-base-uncased', options=(('strip_sep_token', True),)
    )
    assert DualEncoder.describe('ViT-B-16', tokenizer=BytePairTokenizer('whitespace')).tokenizer.clean == 'whitespace'


def test_a_description_may_be_changed_in_single_things():
    dual = DualEncoder.describe('ViT-B-16')
    changed = DualEncoder.describe(dual, 'clip.pt', quick_gelu=True, mean=(0, 0, 0))
    assert (changed.checkpoint, changed.quick_gelu, changed.activation_is_given) == ('clip.pt', True, True)
    assert (changed.name, changed.mean, changed.std) == ('ViT-B-16', (0, 0, 0), dual.std)
    assert DualEncoder.describe(dual) == dual


def test_a_description_comes_from_a_config_and_travels():
    dual = DualEncoder.describe(**ConfigDict(arch=VIT | dict(quick_gelu=True), checkpoint='clip.pt'))
    assert dual == DualEncoder.describe(VIT | dict(quick_gelu=True), 'clip.pt')
    assert copy.deepcopy(dual) == dual == pickle.loads(pickle.dumps(dual))
    with pytest.raises(AttributeError):
        dual.quick_gelu = False


def test_without_weights_there_is_nothing_to_load():
    dual = DualEncoder.describe(VIT)
    with pytest.raises(ValueError, match='text encoder custom has no checkpoint'):
        dual.load({}, 'text')
