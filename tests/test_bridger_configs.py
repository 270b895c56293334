"""Configs of configs/bridger: each builds, starts as the model that MMSegmentation has, and trains."""

from __future__ import annotations

import ast
import copy
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmetris.utils.command_line import build_without_weights
from mmetris.utils.config_options import runner_settings
from mmetris.utils.param_count import count_parameters
from tests import toy

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / 'configs' / 'bridger').glob('*.py'))
NAMES = [path.stem for path in CONFIGS]
# What the bases compute settings from.
VARIABLES = {
    'crop_size',
    'norm_cfg',
    'scale',
    'source',
    'test_pipeline',
    'train_pipeline',
    'validation',
    'vis_backends',
}
READ_BY_TOOLS = {'auto_scale_lr', 'custom_imports', 'tta_model', 'tta_pipeline'}


def load(name: str) -> Config:
    return Config.fromfile(ROOT / 'configs' / 'bridger' / f'{name}.py')


def base_of(name: str) -> Config:
    """The model without the Bridger."""
    return Config.fromfile(ROOT / 'configs' / '_base_' / 'models' / f'{name.rsplit("_", 1)[0]}.py')


def for_cpu(model: ConfigDict) -> ConfigDict:
    """The config's model for two small images on a CPU: no SyncBN, a tiny CLIP with random weights, no download."""
    model = copy.deepcopy(model)

    def visit(node) -> None:
        if isinstance(node, dict):
            if node.get('type') == 'SyncBN':
                node['type'] = 'BN'
            for value in node.values():
                visit(value)

    visit(model)
    if 'class_text' in model.backbone:
        model.backbone.class_text.update(arch=toy.VIT, clip_checkpoint=None)
    return model


def test_there_is_a_config_for_each_of_the_four_models():
    wanted = {'deeplabv3plus_r50', 'upernet_swin-t', 'segformer_mit-b0', 'upernet_vitb16'}
    assert wanted <= {name.rsplit('_', 1)[0] for name in NAMES}


@pytest.mark.parametrize('name', NAMES)
def test_no_top_level_key_is_unknown_and_the_header_tells_the_command(name):
    assert set(load(name)) - VARIABLES - READ_BY_TOOLS <= runner_settings()
    header = ast.get_docstring(ast.parse((ROOT / 'configs' / 'bridger' / f'{name}.py').read_text(encoding='utf-8')))
    assert f'bash tools/dist_train.sh configs/bridger/{name}.py 4' in header and 'not run' in header


@pytest.mark.parametrize('name', NAMES)
def test_it_is_the_base_model_but_for_the_backbone_it_wraps(name):
    ours, base = load(name).model, base_of(name).model
    backbone = ours.pop('backbone')
    assert backbone.type == 'BridgedBackbone' and backbone.backbone == base.pop('backbone')
    assert ours == base
    assert backbone.class_text.clip_checkpoint == 'pretrained/ViT-B-16.pt'
    assert backbone.class_text.vocabulary.classes == 'ade20k' and base.decode_head.num_classes == 150
    assert tuple(base.data_preprocessor.size) == load(name).crop_size


@pytest.mark.parametrize('name', NAMES)
def test_it_starts_as_the_base_model_and_trains(name):
    bridged, plain = (toy.build(for_cpu(cfg.model)) for cfg in (load(name), base_of(name)))
    plain.eval(), bridged.eval()
    _, unexpected = bridged.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    images = toy.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(bridged(images), plain(images))
    label = torch.randint(0, 150, (1, 64, 64), generator=torch.Generator().manual_seed(0))
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for _ in images]
    bridged.train()
    bridged.parse_losses(bridged(images, samples, mode='loss'))[0].backward()
    tuned = {key: value for key, value in bridged.named_parameters() if value.requires_grad}
    assert [key for key, value in tuned.items() if value.grad is None] == []
    assert {key.split('.')[1] for key in tuned if key.startswith('backbone')} == {'backbone', 'bridger'}


@pytest.mark.parametrize('name', NAMES)
def test_the_readmes_parameter_count_is_the_bridgers(name):
    model = build_without_weights(load(name))
    counts = count_parameters(model)
    assert counts['bridger'] == sum(value.numel() for value in model.backbone.bridger.parameters())
    assert counts['backbone_tunable'] == sum(value.numel() for value in model.backbone.backbone.parameters())
    assert counts['total'] == sum(value.numel() for value in model.parameters())
    lines = (ROOT / 'configs' / 'bridger' / 'README.md').read_text(encoding='utf-8').split('\n')
    row = next(line for line in lines if f'`{name}`' in line)
    assert re.findall(r'([\d.]+) M', row) == [f'{counts["bridger"] / 1e6:.2f}']


def test_the_bridgers_rate_is_its_own():
    """Where the backbone's is small; the keys find the parameters of the wrapped model."""
    for name in NAMES:
        multiples = load(name).optim_wrapper.get('paramwise_cfg', {}).get('custom_keys', {})
        if 'deeplab' not in name:
            assert multiples['backbone.bridger'] == dict(lr_mult=10)
