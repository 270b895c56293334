"""CLIP architectures by name and by sizes."""

import pytest
import torch

from mmetris.models.clip import build_image_tower, build_text_tower, resolve_arch
from tests.toy import VIT

NAMES = ['RN50', 'RN101', 'RN50x4', 'RN50x16', 'ViT-B-16', 'ViT-B-32', 'ViT-L-14', 'ViT-L-14-336']


@pytest.mark.parametrize('name', NAMES)
def test_every_architecture_builds(name):
    arch = resolve_arch(name)
    with torch.device('meta'):
        image, text = build_image_tower(arch), build_text_tower(arch)
    assert image.output_dim == arch.embed_dim == text.text_projection.shape[1]
    assert arch.is_resnet == name.startswith('RN') and arch.quick_gelu


@pytest.mark.parametrize('spelling', ['ViT-B/16', 'ViT-B-16', 'ViT-B-16-quickgelu'])
def test_names_may_be_written_as_openai_or_open_clip_do(spelling):
    assert resolve_arch(spelling).name == 'ViT-B-16'


def test_openais_336_pixel_model_is_found_under_its_own_spelling():
    assert resolve_arch('ViT-L/14@336px').vision['image_size'] == 336


@pytest.mark.parametrize(
    'arch, message',
    [
        ('ViT-X-99', "arch='ViT-X-99' is no architecture"),
        (dict(embed_dim=8), r"lacks \['text_cfg', 'vision_cfg'\]"),
        ('convnext_base', 'another library'),
    ],
)
def test_what_cannot_be_built_is_refused(arch, message):
    with pytest.raises(ValueError, match=message):
        resolve_arch(arch)


def test_sizes_that_do_not_fit_are_refused():
    arch = resolve_arch(VIT | dict(vision_cfg=VIT['vision_cfg'] | dict(head_width=7)))
    with pytest.raises(ValueError, match='width 32 is not a multiple of head_width 7'):
        build_image_tower(arch)
    arch = resolve_arch(VIT | dict(text_cfg=VIT['text_cfg'] | dict(hidden=3)))
    with pytest.raises(ValueError, match='hidden'):
        build_text_tower(arch)
