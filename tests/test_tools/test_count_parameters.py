"""Tables and JSON of count_parameters.py, in this process; test_tools.py starts it as users do."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs'
ONE = str(CONFIGS / 'etris' / 'etris_r101_refcoco.py')
# Of our models and of MMSegmentation's, whose scopes differ.
SEVERAL = [
    str(CONFIGS / 'ablation' / 'etris_r101_dim8_refcoco.py'),
    str(CONFIGS / 'bridger' / 'segformer_mit-b0_ade20k-512x512.py'),
    str(CONFIGS / 'ablation' / 'etris_r101_no-global_refcoco.py'),
]


@pytest.fixture
def tool(monkeypatch, capsys):
    """Run the tool with these arguments; returns what it printed."""
    spec = importlib.util.spec_from_file_location(
        'count_parameters', ROOT / 'tools' / 'analysis_tools' / 'count_parameters.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, 'argv', ['count_parameters.py', *arguments])
        module.main()
        return capsys.readouterr().out

    return run


def rows_of(output: str) -> list[list[str]]:
    """Cells of the printed tables."""
    return [
        [cell.strip() for cell in line.strip('|').split('|')] for line in output.split('\n') if line.startswith('|')
    ]


def test_one_config_has_the_papers_columns_and_below_them_all_its_parts(tool):
    rows = rows_of(tool(ONE))
    assert rows[:2] == [['config', 'Backbone', 'Prompt', 'Head'], ['etris_r101_refcoco', '1.94 M', '0.00 K', '23.98 M']]
    assert rows[2] == ['part', 'parameters', 'millions']
    parts = {part: (count, millions) for part, count, millions in rows[3:]}
    assert parts['bridger'] == ('1,942,080', '1.94') and parts['frozen'] == ('119,688,032', '119.69')
    assert len(parts) == 7


def test_prompts_are_in_thousands_and_all_else_that_is_added_in_the_backbones_column(tool):
    """Table 2: CoOp with 8 tokens is 4.10 K. LoRA of rank 1 on q and v of 12 blocks of width 512 is 24,576."""
    options = ['model.text_encoder.tuning.prompt.type=PromptTokens', 'model.text_encoder.tuning.prompt.num_tokens=8']
    options += ['model.text_encoder.tuning.lora.type=LoRA', 'model.text_encoder.tuning.lora.rank=1']
    options += ['model.neck.stages=()']
    with pytest.warns(UserWarning, match='has no section'):
        rows = rows_of(tool(ONE, '--cfg-options', *options))
    assert rows[1][1:] == ['0.02 M', '4.10 K', '23.98 M']


def test_several_configs_have_a_row_each(tool):
    rows = rows_of(tool(*SEVERAL))
    assert [row[0] for row in rows] == ['config', *(Path(config).stem for config in SEVERAL)]
    assert rows[1][1:] == ['0.22 M', '0.00 K', '23.98 M'] and rows[3][1:] == ['1.94 M', '0.00 K', '16.08 M']


def test_json_of_several_configs_has_each_ones_parts(tool):
    counts = json.loads(tool(*SEVERAL, '--json'))
    assert list(counts) == SEVERAL
    assert counts[SEVERAL[0]]['bridger'] == 223_272 and counts[SEVERAL[2]]['head'] == 16_082_433
    for parts in counts.values():
        assert all(type(count) is int for count in parts.values())
        assert parts['total'] == sum(count for part, count in parts.items() if part != 'total')
    assert set(counts[SEVERAL[1]]) == set(json.loads(tool(ONE, '--json')))


def test_a_missing_config_ends_it_with_one_line_that_names_it(tool, capsys):
    with pytest.raises(SystemExit) as ended:
        tool(ONE, 'none.py')
    assert ended.value.code == 2 and 'config file not found: none.py' in capsys.readouterr().err
