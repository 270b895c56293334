"""The configs of DETRIS: exact counts, the paper's figures, and the same model as the converter's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config

from mmetris.models.converters import DETRIS
from mmetris.models.converters.detris_sizes import CLIP_NORMALISATION
from mmetris.registry import MODELS
from mmetris.utils.command_line import build_without_weights
from mmetris.utils.param_count import count_parameters

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / 'configs' / 'detris'
NAMES = sorted(path.stem for path in FOLDER.glob('*.py'))
ENTRIES = {model['Name']: model for model in yaml.safe_load((FOLDER / 'metafile.yml').read_text())['Models']}
# Adapters, decoder.
COUNTS = dict(base=(2715696, 22802433), large=(3110448, 23195649), mixed=(33331360, 23195649))


def kind_of(name):
    return 'mixed' if name.endswith('mixed') else name.split('_')[1]


@pytest.mark.parametrize('name', NAMES)
def test_counts_are_the_published_ones_and_stand_where_they_are_told(name):
    counts = count_parameters(build_without_weights(Config.fromfile(FOLDER / f'{name}.py')))
    adapters, decoder = COUNTS[kind_of(name)]
    assert (counts['tuning'], counts['head']) == (adapters, decoder)
    assert counts['bridger'] == counts['prompt'] == counts['backbone_tunable'] == 0
    facts = ENTRIES[name]['Metadata']
    assert (facts['Adapter Parameters'], facts['Decoder Parameters']) == (adapters, decoder)
    header = (FOLDER / f'{name}.py').read_text(encoding='utf-8')
    assert f'adapters {adapters / 1e6:.2f} M, decoder {decoder / 1e6:.2f} M' in header
    scores = [result['Metrics']['mIoU'] for result in ENTRIES[name]['Results']]
    assert f'mIoU {" / ".join(f"{score:.2f}" for score in scores[:3])} on val' in header.replace(
        ', one model for all', ''
    )
    assert facts['Epochs'] == Config.fromfile(FOLDER / f'{name}.py').train_cfg.max_epochs


def test_the_metafile_lists_every_config_and_the_readme_shows_them():
    assert sorted(ENTRIES) == NAMES
    assert {model['Config'] for model in ENTRIES.values()} == {f'configs/detris/{name}.py' for name in NAMES}
    assert 'configs/detris/metafile.yml' in yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
    readme = (FOLDER / 'README.md').read_text(encoding='utf-8')
    for adapters, decoder in COUNTS.values():
        assert f'{adapters:,} | {decoder:,}' in readme
    assert 'thuteam/DETRIS' in readme


def printed(model):
    """All modules with their sizes; dropout and epsilons among them."""
    return re.sub(r'\n *init_cfg=.*', '', str(model))


@pytest.mark.parametrize('name', ['detris_base_refcoco', 'detris_large_refcocog_umd', 'detris_large_mixed'])
def test_the_config_is_the_model_that_the_converter_makes_of_such_a_checkpoint(name):
    cfg = Config.fromfile(FOLDER / f'{name}.py')
    model = build_without_weights(cfg)
    published = DETRIS.to_published(dict(state_dict=model.state_dict()))
    converted = DETRIS.from_published(published, context_length=cfg.context_length)
    with torch.device('meta'):
        other = MODELS.build(converted.model_cfg)
    assert printed(other) == printed(model)
    heads = [[module.num_heads for module in one.modules() if hasattr(module, 'num_heads')] for one in (model, other)]
    assert heads[0] == heads[1]
    for part in ('backbone', 'text_encoder'):
        one, same = getattr(model, part), getattr(other, part)
        assert one._stages == same._stages and one.out_stages == same.out_stages
        assert one.tuning.keys() == same.tuning.keys() and one._tuned_by() == same._tuned_by()
        assert one.frozen and same.frozen
    assert converted.sizes.input_size == cfg.input_size[0] == 448
    assert model.test_cfg == other.test_cfg == dict(mode='whole', corner_aligned=True)
    assert other.context_length == model.context_length == cfg.context_length
    assert other.decode_head.threshold == model.decode_head.threshold == 0.35
    for key, values in CLIP_NORMALISATION.items():
        assert cfg.model.data_preprocessor[key] == pytest.approx(values)


def test_the_mixture_is_of_three_data_sets():
    dataset = Config.fromfile(FOLDER / 'detris_large_mixed.py').train_dataloader.dataset
    assert dataset.type == 'MixedRefDataset'
    assert [(one.ann_file, one.split_file) for one in dataset.datasets] == [
        ('refcoco/instances.json', 'refcoco/refs(unc).p'),
        ('refcoco+/instances.json', 'refcoco+/refs(unc).p'),
        ('refcocog/instances.json', 'refcocog/refs(umd).p'),
    ]
    assert all(one.pipeline == dataset.datasets[0].pipeline and one.split == 'train' for one in dataset.datasets)


def test_batch_norm_is_synchronised():
    assert all(Config.fromfile(FOLDER / f'{name}.py').sync_bn == 'torch' for name in NAMES)
