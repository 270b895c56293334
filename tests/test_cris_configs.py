"""The configs of CRIS: exact counts and the printed ones, learning rates, and the same model as the converter's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.model import convert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from mmetris.models.converters import CRIS
from mmetris.registry import MODELS
from mmetris.utils.command_line import build_without_weights
from mmetris.utils.param_count import count_parameters
from tests import toy

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / 'configs' / 'cris'
# Image encoder, text encoder, decoder; in millions what ETRIS's Table 3 prints for backbone and decoder.
COUNTS = dict(r50=(40416096, 63690240, 42742785), r101=(57309536, 63428096, 40514049))
PRINTED = dict(r50=(40.42, 42.88), r101=(57.31, 40.66))


def load(encoder):
    return Config.fromfile(FOLDER / f'cris_{encoder}_refcoco.py')


def size(module):
    return sum(parameter.numel() for parameter in module.parameters())


def tiny(**dual_encoder):
    """The config's model on a tiny CLIP, in memory."""
    model = load('r50').model
    model.dual_encoder = dict(arch=toy.RESNET, quick_gelu=True, **dual_encoder)
    model.decode_head.channels = 16
    return toy.build(model)


@pytest.mark.parametrize('encoder', COUNTS)
def test_the_printed_counts_follow_from_ours(encoder):
    """What is printed as the decoder is all that learns at the full rate: it has the positions of both encoders too."""
    model = build_without_weights(load(encoder))
    counts = count_parameters(model)
    assert (size(model.backbone), size(model.text_encoder), counts['head']) == COUNTS[encoder]
    assert counts['backbone_tunable'] == sum(COUNTS[encoder][:2]) and counts['frozen'] == counts['bridger'] == 0
    positions = {
        name: parameter.numel() for name, parameter in model.named_parameters() if 'positional_embedding' in name
    }
    assert positions == {
        'backbone.tower.attnpool.positional_embedding': 50 * 2048,
        'text_encoder.tower.positional_embedding': 77 * 512,
    }
    backbone, decoder = PRINTED[encoder]
    assert round(size(model.backbone) / 1e6, 2) == backbone
    assert round((counts['head'] + sum(positions.values())) / 1e6, 2) == decoder


@pytest.mark.parametrize('encoder', COUNTS)
def test_the_metafile_the_readme_and_the_headers_give_the_counts(encoder):
    name = f'cris_{encoder}_refcoco'
    entry = {model['Name']: model for model in yaml.safe_load((FOLDER / 'metafile.yml').read_text())['Models']}[name]
    image, text, decoder = COUNTS[encoder]
    parts = ('Image Encoder', 'Text Encoder', 'Decoder')
    assert tuple(entry['Metadata'][f'{part} Parameters'] for part in parts) == (image, text, decoder)
    results = ' / '.join(f'{result["Metrics"]["mIoU"]:.2f}' for result in entry['Results'])
    readme = (FOLDER / 'README.md').read_text(encoding='utf-8').split('\n')
    assert f'| `{name}` | {image:,} | {text:,} | {decoder:,} | {results} |' in readme
    printed = f'{decoder:,} | 141,824 | {decoder + 141824:,} | {PRINTED[encoder][1]:.2f} M |'
    assert any(row.endswith(printed) for row in readme)
    header = (FOLDER / f'{name}.py').read_text(encoding='utf-8')
    assert f'all of CLIP ({(image + text) / 1e6:.2f} M), decoder {decoder / 1e6:.2f} M' in header
    assert f'mIoU {results} on val / testA / testB' in header


def test_the_metafile_lists_every_config():
    listed = {model['Config'] for model in yaml.safe_load((FOLDER / 'metafile.yml').read_text())['Models']}
    assert listed == {path.relative_to(ROOT).as_posix() for path in FOLDER.glob('*.py')}
    assert 'configs/cris/metafile.yml' in yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']


def printed(model):
    """All modules with their sizes."""
    return re.sub(r'\n *init_cfg=.*', '', str(model))


@pytest.mark.parametrize('encoder', COUNTS)
def test_the_config_is_the_model_that_the_converter_makes_of_such_a_checkpoint(encoder):
    cfg = load(encoder)
    model = build_without_weights(cfg)
    converted = CRIS.from_published(CRIS.to_published(dict(state_dict=model.state_dict())))
    with torch.device('meta'):
        other = MODELS.build(converted.model_cfg)
    assert printed(other) == printed(model)
    assert converted.sizes.input_size == cfg.input_size[0] == 416
    heads = [[module.num_heads for module in one.modules() if hasattr(module, 'num_heads')] for one in (model, other)]
    assert heads[0] == heads[1]
    for part in ('backbone', 'text_encoder'):
        one, same = getattr(model, part), getattr(other, part)
        assert (one.out_stages, one.frozen, one.norm_eval) == (same.out_stages, same.frozen, same.norm_eval)
        assert not one.frozen and not one.norm_eval
    assert model.test_cfg == other.test_cfg == dict(mode='whole', corner_aligned=True)
    assert other.context_length == model.context_length == cfg.context_length == 17
    assert other.decode_head.threshold == model.decode_head.threshold


def test_clip_learns_at_a_tenth_of_the_rate_and_its_positions_at_the_full_one():
    model = tiny()
    init_default_scope('mmetris')
    optimizer = build_optim_wrapper(model, load('r50').optim_wrapper).optimizer
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(parameter)]: group['lr'] for group in optimizer.param_groups for parameter in group['params']}
    assert rates.keys() == dict(model.named_parameters()).keys()
    slow = {name for name, rate in rates.items() if rate == pytest.approx(1e-5)}
    full = {name for name, rate in rates.items() if rate == pytest.approx(1e-4)}
    assert slow | full == rates.keys()
    in_clip = {name for name in rates if name.startswith(('backbone', 'text_encoder'))}
    positions = {name for name in in_clip if name.endswith('positional_embedding')}
    assert len(positions) == 2 and slow == in_clip - positions


def test_synchronised_batch_norm_is_that_of_all_parts_and_clips_weights_still_find_them(tmp_path):
    """The runner exchanges the layers before CLIP is read."""
    cfg = load('r50')
    assert cfg.sync_bn == 'torch'
    clip = tmp_path / 'clip.pth'
    source = tiny()
    with torch.no_grad():
        for value in source.state_dict().values():
            value.uniform_(0.1, 1) if value.is_floating_point() else value
    weights = {f'visual.{key}': value for key, value in source.backbone.tower.state_dict().items()}
    torch.save(weights | source.text_encoder.tower.state_dict(), clip)
    model = convert_sync_batchnorm(tiny(clip_checkpoint=str(clip)), cfg.sync_bn)
    names = {name for name, module in model.named_modules() if isinstance(module, torch.nn.SyncBatchNorm)}
    assert {'backbone.tower.bn1', 'backbone.pool_shortcut.1'} <= names
    assert 'decode_head.hierarchical_alignment.text_projection.norm' in names
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    model.init_weights()
    state, expected = model.state_dict(), source.state_dict()
    for key in ('backbone.tower.layer4.0.bn1.weight', 'backbone.tower.layer4.0.bn1.running_var'):
        assert torch.equal(state[key], expected[key])
    assert model.train().backbone.tower.bn1.training and not model.eval().backbone.tower.bn1.training
