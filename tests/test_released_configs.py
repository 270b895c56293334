"""The configs of the released variant: exact counts, what stays trainable, and the same model as the converter's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config

from mmetris.models.converters import ETRIS
from mmetris.registry import MODELS
from mmetris.utils.command_line import build_without_weights
from mmetris.utils.param_count import count_parameters

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / 'configs' / 'etris_released'
COUNTS = dict(r50=(1942080, 26735105), r101=(1942080, 24244225), vitb16=(598592, 22671361))


def load(encoder):
    return Config.fromfile(FOLDER / f'etris_released_{encoder}_refcoco.py')


def printed(model):
    """All modules with their sizes, but not how they start; 1 and 1.0 are the same scale."""
    return re.sub(r'\n *init_cfg=.*', '', re.sub(r'scale=(\d)\.0', r'scale=\1', str(model)))


@pytest.mark.parametrize('encoder', COUNTS)
def test_counts_are_those_of_the_published_models(encoder):
    model = build_without_weights(load(encoder))
    counts = count_parameters(model)
    assert (counts['bridger'], counts['head']) == COUNTS[encoder]
    left_trainable = [
        name
        for part in ('backbone', 'text_encoder')
        for name, parameter in getattr(model, part).named_parameters()
        if parameter.requires_grad
    ]
    assert len(left_trainable) == 2 and all(name.endswith('positional_embedding') for name in left_trainable)


@pytest.mark.parametrize('encoder', COUNTS)
def test_the_config_is_the_model_that_the_converter_makes_of_such_a_checkpoint(encoder):
    cfg = load(encoder)
    model = build_without_weights(cfg)
    published = ETRIS.to_published(dict(state_dict=model.state_dict()))
    converted = ETRIS.from_published(published)
    with torch.device('meta'):
        other = MODELS.build(converted.model_cfg)
    assert printed(other) == printed(model)
    assert converted.sizes.input_size == cfg.input_size[0] == 416
    for name in ('memory', 'cross_inputs', 'mask_padding'):
        assert getattr(other.neck.bridges['2'], name) == getattr(model.neck.bridges['2'], name)
    heads = [[module.num_heads for module in one.modules() if hasattr(module, 'num_heads')] for one in (model, other)]
    assert heads[0] == heads[1]
    for part in ('backbone', 'text_encoder'):
        one, same = getattr(model, part), getattr(other, part)
        assert (one.out_stages, one.norm_eval) == (same.out_stages, same.norm_eval)
    assert model.backbone.norm_eval == (encoder == 'vitb16')
    assert other.context_length == model.context_length == cfg.context_length == 17


@pytest.mark.parametrize('encoder', ['r101', 'vitb16'])
def test_the_bridger_starts_as_in_the_released_code(encoder):
    specs = [(512, 8), (1024, 16), (2048, 32)] if encoder == 'r101' else [(768, 16)] * 3
    stages = (2, 3, 4) if encoder == 'r101' else (1, 2, 3)
    neck = load(encoder).model.neck
    bridger = MODELS.build(dict(neck, image_specs=specs, word_channels=512, out_stages=stages))
    bridger.init_weights()
    stage = bridger.bridges['2']
    linear, conv = stage.words_in, stage.zoom_in.project
    assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05) and not linear.bias.any()
    fan_out = conv.out_channels * conv.kernel_size[0] ** 2
    assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


@pytest.mark.parametrize('encoder', COUNTS)
def test_the_metafile_and_the_readme_give_the_counts(encoder):
    models = {model['Name']: model for model in yaml.safe_load((FOLDER / 'metafile.yml').read_text())['Models']}
    entry = models[f'etris_released_{encoder}_refcoco']
    assert (ROOT / entry['Config']).is_file()
    assert (entry['Metadata']['Bridger Parameters'], entry['Metadata']['Decoder Parameters']) == COUNTS[encoder]
    bridger, head = COUNTS[encoder]
    rows = (FOLDER / 'README.md').read_text().split('\n')
    assert any(
        row.startswith(f'| `etris_released_{encoder}_refcoco` |') and f'{bridger:,} | {head:,}' in row for row in rows
    )
