"""Configs of configs/tuning: rows of the paper's Tables 2 and 8, and the same methods on ViT-B/16.

The tables are written out here by hand, and the counts worked out from widths; configs, metafile, README and the first
lines of the configs are held against them.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from mmetris.utils.command_line import build_without_weights
from mmetris.utils.param_count import count_parameters
from tests import toy
from tests.test_ablation_configs import differences
from tests.test_configs import shrunken

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / 'configs' / 'tuning'
# Of CLIP; the sentence feature is as wide as the text encoder.
WORDS, LAYERS = 512, 12
PATCHES, BLOCKS = 768, 12  # of ViT-B/16
PLANES = {64: 3, 128: 4, 256: 23, 512: 3}  # of ResNet-101's bottlenecks: width p of the 3x3 convolution, and how many
ADAPTED = {planes: blocks for planes, blocks in PLANES.items() if planes > 64}  # Layers 2 to 4.
CLIP = dict(r101=119_688_032, vitb16=149_620_736)
BRIDGER = dict(r101=1_942_080, vitb16=1_390_016)
HEAD = dict(r101=23_981_569, vitb16=22_408_705)

NINE = ('transformer.resblocks.[3-9].mlp', 'transformer.resblocks.1[01].mlp')
ALL_CONVS = {'layer[234].*.conv1': 'bn1', 'layer[234].*.conv2': 'bn2', 'layer[234].*.conv3': 'bn3'}
IMAGE, TEXT, NECK = 'model.backbone.tuning', 'model.text_encoder.tuning', 'model.neck.stages'
ALONE = {NECK: ()}
TENTH = dict(lr_mult=0.1)


class Row(NamedTuple):
    """A row of the tables: name, tables, columns Backbone (millions) and Prompt (thousands), mIoU and Pr@0.5 to 0.9."""

    name: str
    tables: str
    backbone: str
    prompt: str
    scores: tuple[float, ...]


ROWS = {
    'full': Row('Full-Tuning', '2, 8', '120.74', '0.00', (70.47, 82.62, 78.35, 71.35, 54.47, 17.69)),
    'fixed': Row('Fix Backbone', '2, 8', '0.00', '0.00', (67.73, 79.53, 74.42, 66.10, 46.39, 12.41)),
    'adapter': Row('Adapter', '2, 8', '2.39', '0.00', (69.46, 81.05, 76.59, 69.69, 51.27, 16.16)),
    'conv-adapter': Row('Conv Adapter', '2, 8', '1.20', '0.00', (69.33, 80.79, 76.62, 69.80, 51.69, 15.95)),
    'compacter': Row('Compacter', '2', '0.19', '0.00', (69.11,)),
    'coop': Row('CoOp', '2', '0.00', '4.10', (67.87,)),
    'lora': Row('LoRA', '2', '0.03', '0.00', (68.84,)),
    'adapter-etris': Row('Adapter+ETRIS', '8', '4.33', '0.00', (71.67, 84.25, 80.12, 73.50, 56.33, 18.43)),
    'conv-adapter-etris': Row('Conv Adapter+ETRIS', '8', '3.14', '0.00', (72.11, 84.46, 80.27, 73.92, 57.13, 18.74)),
}
METRICS = ('mIoU', 'Pr@0.5', 'Pr@0.6', 'Pr@0.7', 'Pr@0.8', 'Pr@0.9')
PRINTED_HEAD = '23.98'


class Model(NamedTuple):
    """What a config changes of its base, by dotted key, and the tuned parameters that it has besides the Bridger's.

    ``kind`` is their name in :func:`count_parameters`.
    """

    changes: dict[str, object]
    count: int
    kind: str = 'tuning'


def tuned_by(name: str, image: dict | None, text: dict | None) -> dict[str, object]:
    """One method under one name, in the image encoder, the text encoder or both."""
    return {part: {name: cfg} for part, cfg in ((IMAGE, image), (TEXT, text)) if cfg is not None}


def conv_adapter(width: int) -> int:
    """To a quarter and back, without biases; BatchNorm after both."""
    return 2 * width * (width // 4) + 2 * (width // 4) + 2 * width


def adapter(width: int) -> int:
    """To a quarter and back, with biases."""
    return 2 * width * (width // 4) + width // 4 + width


def compacter(width: int, out: int, reduction: int) -> int:
    """Down and up, of rank 1: as many numbers as rows and columns; biases. The rule of 4 x 4 x 4 is apart."""
    hidden = width // reduction
    return (width + hidden) + (hidden + out) + hidden + out


def bottlenecks_of_compacters() -> int:
    """Of three convolutions p <- w, p <- p, 4 p <- p, where w is 2 p in a layer's first bottleneck, else 4 p."""
    widths = [(p, w) for p, blocks in ADAPTED.items() for w in [2 * p] + [4 * p] * (blocks - 1)]
    return sum(compacter(w, p, 4) + compacter(p, p, 4) + compacter(p, 4 * p, 4) for p, w in widths)


def biases_of_transformer(width: int, layers: int) -> int:
    """In a layer q, k, v, the output, 4 + 1 of the network, two norms."""
    return layers * (3 + 1 + 4 + 1 + 2) * width


def biases_of_resnet() -> int:
    """BatchNorm: 3 in the stem, p + p + 4 p in a bottleneck, 4 p in a layer's shortcut. The pool: q, k, v, c."""
    norms = 32 + 32 + 64 + sum(6 * p * blocks + 4 * p for p, blocks in PLANES.items())
    return norms + 3 * 2048 + WORDS


CONV_ADAPTERS = sum(blocks * conv_adapter(planes) for planes, blocks in ADAPTED.items())
ADAPTERS = CONV_ADAPTERS + 9 * (2 * WORDS * 128 + 2 * WORDS)
ADAPTER_R101 = tuned_by('adapter', dict(type='ConvAdapter'), dict(type='Adapter', places=NINE, bias=False, norm=True))
ADAPTERS_VIT = 2 * BLOCKS * adapter(PATCHES) + 2 * LAYERS * adapter(WORDS)
ADAPTER_VIT = tuned_by('adapter', dict(type='Adapter', reduction=4), dict(type='Adapter', reduction=4))
CONV_ADAPTER_R101 = tuned_by('adapter', dict(type='ConvAdapter'), None)
CONV_ADAPTER_VIT = tuned_by('adapter', dict(type='ConvAdapter', places='ffn'), None)
LORA = dict(type='LoRA', rank=1)
BITFIT = tuned_by('bitfit', dict(type='BitFit'), dict(type='BitFit'))
COOP = tuned_by('prompt', None, dict(type='PromptTokens', num_tokens=8))
VPT = dict(type='PromptTokens', num_tokens=50)
RATES = 'optim_wrapper.paramwise_cfg'
FROZEN = {'model.backbone.frozen': False, 'model.text_encoder.frozen': False}

MODELS = {
    'r101': {
        'full': Model(
            {
                **FROZEN,
                **ALONE,
                'model.backbone.pool_shortcut': True,
                RATES: dict(custom_keys=dict(backbone=TENTH, text_encoder=TENTH)),
            },
            CLIP['r101'] + 2048 * WORDS + 2 * WORDS,  # The shortcut: 1x1 convolution, BatchNorm.
            'backbone_tunable',
        ),
        'fixed': Model(ALONE, 0),
        'adapter': Model(ADAPTER_R101 | ALONE, ADAPTERS),
        'adapter-etris': Model(ADAPTER_R101, ADAPTERS),
        'conv-adapter': Model(CONV_ADAPTER_R101 | ALONE, CONV_ADAPTERS),
        'conv-adapter-etris': Model(CONV_ADAPTER_R101, CONV_ADAPTERS),
        'compacter': Model(
            tuned_by(
                'compacter',
                dict(type='Compacter', reduction=4, places=ALL_CONVS),
                dict(type='Compacter', reduction=4, places=NINE),
            )
            | ALONE,
            bottlenecks_of_compacters() + 9 * compacter(WORDS, WORDS, 4) + 4**3,
        ),
        'coop': Model(COOP | ALONE, 8 * WORDS, 'prompt'),
        'lora': Model(tuned_by('lora', LORA, LORA) | ALONE, 2 * (2048 + 2048) + LAYERS * 2 * (WORDS + WORDS)),
        'bitfit': Model(
            BITFIT | ALONE, biases_of_resnet() + biases_of_transformer(WORDS, LAYERS) + WORDS, 'backbone_tunable'
        ),
    },
    'vitb16': {
        'full': Model(
            {
                **FROZEN,
                **ALONE,
                f'{RATES}.custom_keys.backbone': TENTH,
                f'{RATES}.custom_keys.text_encoder': TENTH,
            },
            CLIP['vitb16'],
            'backbone_tunable',
        ),
        'fixed': Model(ALONE, 0),
        'adapter': Model(ADAPTER_VIT | ALONE, ADAPTERS_VIT),
        'adapter-etris': Model(ADAPTER_VIT, ADAPTERS_VIT),
        'conv-adapter': Model(CONV_ADAPTER_VIT | ALONE, BLOCKS * conv_adapter(PATCHES)),
        'conv-adapter-etris': Model(CONV_ADAPTER_VIT, BLOCKS * conv_adapter(PATCHES)),
        'compacter': Model(
            tuned_by('compacter', dict(type='Compacter', reduction=32), dict(type='Compacter', reduction=32)) | ALONE,
            2 * BLOCKS * compacter(PATCHES, PATCHES, 32) + 2 * LAYERS * compacter(WORDS, WORDS, 32) + 4**3,
        ),
        'coop': Model(COOP | ALONE, 8 * WORDS, 'prompt'),
        'vpt': Model(tuned_by('prompt', VPT, None) | ALONE, 50 * PATCHES, 'prompt'),
        'vpt-deep': Model(tuned_by('prompt', VPT | dict(deep=True), None) | ALONE, BLOCKS * 50 * PATCHES, 'prompt'),
        'lora': Model(
            tuned_by('lora', LORA | dict(rank=4), LORA | dict(rank=4)) | ALONE,
            BLOCKS * 2 * 4 * 2 * PATCHES + LAYERS * 2 * 4 * 2 * WORDS,
        ),
        'bitfit': Model(
            BITFIT | ALONE,
            # Norms at the ends: two of the image encoder, one of the text encoder.
            biases_of_transformer(PATCHES, BLOCKS) + 2 * PATCHES + biases_of_transformer(WORDS, LAYERS) + WORDS,
            'backbone_tunable',
        ),
    },
}

CASES = [(method, encoder) for encoder, models in MODELS.items() for method in models]
OF_THE_PAPER = [(method, encoder) for method, encoder in CASES if encoder == 'r101' and method in ROWS]


def name_of(method: str, encoder: str) -> str:
    return f'{method}_{encoder}_refcoco'


def load(method: str, encoder: str) -> Config:
    return Config.fromfile(FOLDER / f'{name_of(method, encoder)}.py')


def header_of(method: str, encoder: str) -> str:
    """The first lines of a config, on one line."""
    text = (FOLDER / f'{name_of(method, encoder)}.py').read_text(encoding='utf-8')
    return ' '.join((ast.get_docstring(ast.parse(text)) or '').split())


def entries() -> dict[str, dict]:
    """The models of the metafile, by name."""
    content = yaml.safe_load((FOLDER / 'metafile.yml').read_text(encoding='utf-8'))
    return {model['Name']: model for model in content['Models']}


def columns_of(method: str, encoder: str) -> tuple[int, int, int]:
    """Backbone, Prompt and Head, as the paper's tables sum them up."""
    model = MODELS[encoder][method]
    bridger = 0 if NECK in model.changes else BRIDGER[encoder]
    prompt = model.count if model.kind == 'prompt' else 0
    return bridger + model.count - prompt, prompt, HEAD[encoder]


def test_there_is_a_config_for_each_row_and_no_other():
    assert set(ROWS) | {'bitfit'} == set(MODELS['r101']) == set(MODELS['vitb16']) - {'vpt', 'vpt-deep'}
    names = {name_of(method, encoder) for method, encoder in CASES}
    assert {path.stem for path in FOLDER.glob('*.py')} == names == set(entries())


@pytest.mark.parametrize('method, encoder', CASES)
def test_a_config_is_the_base_with_what_it_tunes(method, encoder):
    base = Config.fromfile(ROOT / 'configs' / 'etris' / f'etris_{encoder}_refcoco.py')
    assert differences(base.to_dict(), load(method, encoder).to_dict()) == MODELS[encoder][method].changes


@pytest.mark.parametrize('method, encoder', CASES)
def test_parameters_are_counted_exactly(method, encoder):
    model = MODELS[encoder][method]
    counts = count_parameters(build_without_weights(load(method, encoder)))
    tuned = {kind: model.count if kind == model.kind else 0 for kind in ('tuning', 'prompt', 'backbone_tunable')}
    bridger = 0 if NECK in model.changes else BRIDGER[encoder]
    own = model.count if model.kind == 'backbone_tunable' else 0
    frozen = 0 if method == 'full' else CLIP[encoder] - own
    parts = dict(tuned, bridger=bridger, head=HEAD[encoder], frozen=frozen)
    assert counts == dict(parts, total=sum(parts.values()))


@pytest.mark.parametrize('method, encoder', OF_THE_PAPER)
def test_parameters_are_the_papers(method, encoder):
    backbone, prompt, head = columns_of(method, encoder)
    printed = (f'{backbone / 1e6:.2f}', f'{prompt / 1e3:.2f}', f'{head / 1e6:.2f}')
    assert printed == (ROWS[method].backbone, ROWS[method].prompt, PRINTED_HEAD)


@pytest.mark.parametrize('method, encoder', CASES)
def test_the_metafile_has_the_papers_row_and_our_counts(method, encoder):
    entry, row = entries()[name_of(method, encoder)], ROWS.get(method) if encoder == 'r101' else None
    facts = entry['Metadata']
    counts = tuple(facts[f'{column} Parameters'] for column in ('Backbone', 'Prompt', 'Head'))
    assert counts == columns_of(method, encoder) and all(type(count) is int for count in counts)
    assert facts['Run Here'] is False and str(facts['Paper Table']) == (row.tables if row else 'none')
    if row is None:
        assert 'Results' not in entry and 'Backbone Parameters (M)' not in facts
        return
    assert f'{facts["Backbone Parameters (M)"]:.2f}' == row.backbone
    (val,) = entry['Results']
    assert val['Dataset'] == 'RefCOCO val' and val['Metrics'] == dict(zip(METRICS, row.scores))


@pytest.mark.parametrize('method, encoder', CASES)
def test_the_first_lines_say_which_row_it_is_with_its_figures(method, encoder):
    header, row = header_of(method, encoder), ROWS.get(method) if encoder == 'r101' else None
    backbone, prompt, _ = columns_of(method, encoder)
    told = f'Prompt: {prompt:,} parameters' if prompt else f'Backbone: {backbone:,} parameters'
    assert f'Here: not run. {told if backbone or prompt else "Backbone: none."}' in header
    assert 'Method: ' in header and (method == 'fixed' or 'https://arxiv.org/abs/' in header)
    if row is None:
        assert 'no row of the paper' in header and 'mIoU' not in header
        return
    tables = 'Tables 2 and 8' if row.tables == '2, 8' else f'Table {row.tables}'
    assert f'row "{row.name}" of the paper\'s {tables}.' in header
    precisions = ' / '.join(f'{score:.2f}' for score in row.scores[1:])
    precisions = f', Pr@0.5 / 0.6 / 0.7 / 0.8 / 0.9 {precisions}' if precisions else ''
    assert (
        f'Paper, on val: mIoU {row.scores[0]:.2f} (printed as "oIoU"){precisions}; backbone {row.backbone} M' in header
    )
    assert f'prompt {row.prompt} K, head {PRINTED_HEAD} M.' in header
    # CoOp's place and count follow from the paper's text, and in the others there is nothing to choose.
    assert ('chosen to match the count' in header) == (method not in ('full', 'fixed', 'coop'))


def test_the_readme_says_that_places_are_a_choice_and_what_is_not_the_papers():
    text = ' '.join((FOLDER / 'README.md').read_text(encoding='utf-8').split())
    assert 'The released code has none of these methods' in text and '**chosen to match the count**' in text
    assert "BitFit is in none of the paper's tables" in text
    assert "CoOp's prompt as 4.10 K and every head as 23.98 M" in text


def test_the_model_of_frozen_encoders_is_that_of_the_ablation_without_bridger():
    """Under two names, since Tables 6 and 8 print other Pr for it."""
    other = Config.fromfile(ROOT / 'configs' / 'ablation' / 'etris_r101_no-bridger_refcoco.py')
    assert load('fixed', 'r101').to_dict() == other.to_dict()


def rates_of(cfg: Config) -> dict[str, float]:
    """Learning rate of each tuned parameter, in a model made small."""
    model = toy.build(shrunken(cfg, (64, 96)))
    names = {id(value): name for name, value in model.named_parameters() if value.requires_grad}
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    rates = {names[id(value)]: group['lr'] for group in groups for value in group['params'] if id(value) in names}
    assert len(rates) == len(names)
    return rates


@pytest.mark.parametrize('encoder', MODELS)
def test_in_full_tuning_the_encoders_learn_at_a_tenth(encoder):
    rates = rates_of(load('full', encoder))
    assert {name.split('.')[0] for name in rates} == {'backbone', 'text_encoder', 'decode_head'}
    for name, rate in rates.items():
        assert rate == pytest.approx(1e-4 if name.startswith('decode_head') else 1e-5)


@pytest.mark.parametrize('method, encoder', [case for case in CASES if case[0] not in ('full', 'fixed')])
def test_the_readmes_option_multiplies_the_rate_of_what_is_added(method, encoder):
    (option,) = re.findall(r'--cfg-options (optim_wrapper\S+)=10`', (FOLDER / 'README.md').read_text(encoding='utf-8'))
    cfg = load(method, encoder)
    plain = rates_of(cfg)
    cfg.merge_from_dict({option: 10})
    for name, rate in rates_of(cfg).items():
        assert rate == pytest.approx(plain[name] * (10 if '.tuning.' in name else 1))
    neck = {rate for name, rate in plain.items() if name.startswith('neck')}
    assert neck == (set() if NECK in MODELS[encoder][method].changes else {1e-3 if encoder == 'vitb16' else 1e-4})


@pytest.mark.parametrize('encoder', MODELS)
def test_in_full_tuning_statistics_move_and_else_they_do_not(encoder):
    for method, moves in (('full', True), ('bitfit', False), ('conv-adapter', False)):
        model = toy.build(shrunken(load(method, encoder), (64, 96))).train()
        norms = [module for module in model.backbone.tower.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        assert {module.training for module in norms} == ({moves} if encoder == 'r101' else set())
