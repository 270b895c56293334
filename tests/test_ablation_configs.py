"""Configs of configs/ablation: rows of the paper's Tables 4 to 7, each one change of ETRIS on ResNet-101, RefCOCO.

The tables are written out here by hand; the metafile and the first lines of the configs are held against them.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from mmengine.config import Config

from mmetris.utils.command_line import build_without_weights
from mmetris.utils.param_count import count_parameters

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / 'configs' / 'ablation'
BASE = 'etris_r101_refcoco'
CHANNELS = {2: 512, 3: 1024, 4: 2048}  # of ResNet-101's stages
GRIDS = {2: 52, 3: 26, 4: 13}  # of an input of 416 pixels; the Bridger's is 26
WORDS = 512
DECODER = 23_981_569


class Row(NamedTuple):
    """A row of a table: what is changed, the Bridger's parameters as printed (in millions), mIoU, Pr@0.5, 0.7, 0.9."""

    table: int
    part: str
    change: dict
    printed: str | None
    scores: tuple[float, ...]


ROWS = {
    'bridger-stage2': Row(4, 'neck', dict(stages=(2,)), '0.43', (70.96,)),
    'bridger-stage3': Row(4, 'neck', dict(stages=(3,)), '0.29', (70.18,)),
    'bridger-stage4': Row(4, 'neck', dict(stages=(4,)), '1.22', (69.65,)),
    'bridger-stages2-3': Row(4, 'neck', dict(stages=(2, 3)), '0.72', (70.75,)),
    'bridger-stages3-4': Row(4, 'neck', dict(stages=(3, 4)), '1.51', (70.53,)),
    'zoom-linear': Row(5, 'neck', dict(zoom_kind='linear', input_hw=(416, 416)), '5.77', (70.94, 82.89, 72.18, 17.89)),
    'zoom-conv-interpolate': Row(5, 'neck', dict(zoom_kind='conv_interpolate'), '1.45', (70.08, 81.17, 68.07, 15.95)),
    'zoom-mlp': Row(5, 'neck', dict(zoom_kind='mlp', input_hw=(416, 416)), '1.68', (70.62, 82.36, 71.05, 17.70)),
    'no-bridger': Row(6, 'neck', dict(stages=()), None, (67.73, 79.62, 68.47, 15.41)),
    'no-hierarchical': Row(6, 'decode_head', dict(hierarchical_alignment=None), None, (58.70, 69.53, 45.52, 4.33)),
    'no-global': Row(6, 'decode_head', dict(global_alignment=None), None, (62.21, 71.51, 53.41, 11.16)),
    'dim8': Row(7, 'neck', dict(embed_dims=8), '0.22', (70.55, 82.56, 70.52, 16.60)),
    'dim16': Row(7, 'neck', dict(embed_dims=16), '0.45', (70.78, 82.98, 70.96, 17.01)),
    'dim32': Row(7, 'neck', dict(embed_dims=32), '0.92', (70.92, 83.31, 71.19, 17.42)),
    'dim128': Row(7, 'neck', dict(embed_dims=128), '4.28', (70.39, 82.51, 71.12, 16.99)),
}
# The last row of each table: the base config.
BASE_ROW = Row(0, 'neck', {}, '1.94', (71.06, 83.43, 72.68, 17.40))
METRICS = ('mIoU', 'Pr@0.5', 'Pr@0.7', 'Pr@0.9')
# 297,664 and 726,656; every other count is printed rounded.
TRUNCATED = {'bridger-stage3', 'bridger-stages2-3'}


def name_of(departure: str) -> str:
    return f'etris_r101_{departure}_refcoco'


def load(departure: str) -> Config:
    return Config.fromfile(FOLDER / f'{name_of(departure)}.py')


def entries(folder: str) -> dict[str, dict]:
    """The models of a folder's metafile, by name."""
    content = yaml.safe_load((ROOT / 'configs' / folder / 'metafile.yml').read_text(encoding='utf-8'))
    return {model['Name']: model for model in content['Models']}


def bridger_parameters(stages=(2, 3, 4), embed_dims: int = 64, zoom_kind: str = 'conv_deconv', input_hw=None) -> int:
    """The Bridger's parameters by the paper's formulas, with width d and FFNs of 128.

    An Interactor, of which there are two: two attentions of 4 (d d + d), a network of d 128 + 128 + 128 d + d, three
    norms of 2 d. Words to d and back: 512 d + d + d 512 + 512. From the second Bridger on, two norms of 2 d at the sum
    with the state.
    """
    d = embed_dims
    interactor = 2 * 4 * (d * d + d) + (d * 128 + 128 + 128 * d + d) + 3 * 2 * d
    words = WORDS * d + d + d * WORDS + WORDS
    zooms = sum(zoom_parameters(zoom_kind, CHANNELS[stage], d, GRIDS[stage]) for stage in stages)
    return zooms + len(stages) * (words + 2 * interactor) + max(len(stages) - 1, 0) * 2 * 2 * d


def zoom_parameters(kind: str, channels: int, d: int, side: int) -> int:
    """Zoom in and out of one stage, whose grid has ``side`` cells on each side, and the Bridger's 26."""
    cells, bridged = side**2, 26**2
    if kind == 'conv_deconv':  # 2x2 and 2x2, or 1x1 and 1x1; no bias.
        return 2 * channels * d * (1 if side == 26 else 4)
    if kind == 'conv_interpolate':  # The enlarging one of the two is 1x1.
        return channels * d * (2 if side == 26 else 4 + 1)
    over_channels = channels * d + d + d * channels + channels
    if kind == 'linear':
        return over_channels + cells * bridged + bridged + bridged * cells + cells
    return over_channels + 2 * (cells * 64 + 64 * bridged) + 2 * 64 + bridged + cells  # One hidden layer of 64.


def decoder_parameters(departure: str) -> int:
    """The decoder's parameters at width D = 512, without one of its parts."""
    d = 512
    if departure == 'no-global':
        # In each of three layers two attentions of 4 (D D + D), a network of 2 (D D + D), and six norms: before and
        # after each attention, before and inside the network. One norm at the end.
        return DECODER - 3 * (10 * (d * d + d) + 6 * 2 * d) - 2 * d
    if departure == 'no-hierarchical':
        # What goes: the projections of the first map (512 channels, 2x2) and the second (1024, 1x1), with BatchNorm;
        # that of the last map stays. Three attentions to the sentence. A 1x1 and two 3x3 convolutions, with BatchNorm;
        # the first 3x3 sees two coordinates more.
        projections = 512 * d * 4 + 1024 * d + 2 * 2 * d
        fusion = 3 * d * d + (d + 2) * d * 9 + d * d * 9 + 3 * 2 * d
        return DECODER - projections - 3 * 4 * (d * d + d) - fusion
    return DECODER


def as_printed(count: int, truncated: bool) -> str:
    """Millions with two decimals."""
    return f'{count // 10_000 / 100:.2f}' if truncated else f'{count / 1e6:.2f}'


def differences(one: object, other: object, path: str = '') -> dict[str, object]:
    """What another config has otherwise, by dotted key."""
    if isinstance(one, dict) and isinstance(other, dict):
        found = {}
        for key in {*one, *other}:
            found.update(differences(one.get(key), other.get(key), f'{path}.{key}' if path else key))
            if key in other and key not in one and other[key] is None:
                found[f'{path}.{key}'] = None  # None is a setting of its own.
        return found
    return {} if one == other else {path: other}


def test_there_is_a_config_for_each_row_and_no_other():
    assert {path.stem for path in FOLDER.glob('*.py')} == set(map(name_of, ROWS)) == set(entries('ablation'))


@pytest.mark.parametrize('departure', ROWS)
def test_a_config_is_the_base_with_one_change(departure):
    row, base = ROWS[departure], Config.fromfile(ROOT / 'configs' / 'etris' / f'{BASE}.py')
    changed = differences(base.to_dict(), load(departure).to_dict())
    assert changed == {f'model.{row.part}.{key}': value for key, value in row.change.items()}
    text = (FOLDER / f'{name_of(departure)}.py').read_text(encoding='utf-8')
    assert '416' not in text, "the input size is the data set's"


@pytest.mark.parametrize('departure', ROWS)
def test_parameters_are_the_formulas_and_the_papers(departure):
    row = ROWS[departure]
    counts = count_parameters(build_without_weights(load(departure)))
    assert counts['bridger'] == bridger_parameters(**(row.change if row.part == 'neck' else {}))
    assert counts['head'] == decoder_parameters(departure)
    assert counts['backbone_tunable'] == counts['tuning'] == counts['prompt'] == 0
    if row.printed is not None:
        assert as_printed(counts['bridger'], departure in TRUNCATED) == row.printed
        assert (as_printed(counts['bridger'], truncated=False) == row.printed) == (departure not in TRUNCATED)


def test_parameters_of_the_base_are_the_formulas_and_the_papers():
    counts = count_parameters(build_without_weights(Config.fromfile(ROOT / 'configs' / 'etris' / f'{BASE}.py')))
    assert (counts['bridger'], counts['head']) == (bridger_parameters(), DECODER)
    assert as_printed(counts['bridger'], truncated=False) == BASE_ROW.printed


@pytest.mark.parametrize('departure', [*ROWS, BASE])
def test_the_metafile_has_the_papers_row_and_our_counts(departure):
    row = ROWS.get(departure, BASE_ROW)
    entry = entries('etris')[BASE] if departure == BASE else entries('ablation')[name_of(departure)]
    facts = entry['Metadata']
    assert facts['Bridger Parameters'] == bridger_parameters(**(row.change if row.part == 'neck' else {}))
    assert facts.get('Decoder Parameters', DECODER) == decoder_parameters(departure)
    printed = facts.get('Bridger Parameters (M)')
    assert (None if printed is None else f'{printed:.2f}') == row.printed
    assert facts['Run Here'] is False and facts.get('Paper Table', 0) == row.table
    (val,) = [result['Metrics'] for result in entry['Results'] if result['Dataset'] == 'RefCOCO val']
    assert tuple(val[metric] for metric in METRICS[: len(row.scores)]) == row.scores
    assert departure == BASE or len(val) == len(row.scores)


@pytest.mark.parametrize('departure', ROWS)
def test_the_first_lines_say_which_row_it_is_with_its_figures(departure):
    row = ROWS[departure]
    header = ast.get_docstring(ast.parse((FOLDER / f'{name_of(departure)}.py').read_text(encoding='utf-8')))
    assert f"the paper's Table {row.table}, " in header and 'Here: not run.' in header
    scores = [f'mIoU {row.scores[0]:.2f} (printed as "oIoU")']
    if len(row.scores) > 1:
        scores.append(', Pr@0.5 / 0.7 / 0.9 ' + ' / '.join(f'{score:.2f}' for score in row.scores[1:]))
    assert ''.join(scores) in header
    assert row.printed is None or re.search(rf'Bridger {re.escape(row.printed)} M\b', header)
    assert ('truncated' in header) == (departure in TRUNCATED)
    for part, count in (('Bridger', bridger_parameters), ('Decoder', decoder_parameters)):
        told = re.search(rf'{part}: ([\d,]+) parameters', header)
        if told:
            own = count(**row.change) if part == 'Bridger' else count(departure)
            assert int(told[1].replace(',', '')) == own
    assert 'parameters.' in header or departure == 'no-bridger'
