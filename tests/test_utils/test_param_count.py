"""The paper's columns are sums of the parts, in which each parameter is once."""

from __future__ import annotations

import pytest

from mmetris.utils.param_count import count_parameters, table_columns
from tests import toy


def test_columns_are_sums_by_hand():
    counts = dict(bridger=100, prompt=7, tuning=20, backbone_tunable=3, head=5000, frozen=10**6, total=1_005_130)
    assert table_columns(counts) == dict(Backbone=100 + 20 + 3, Prompt=7, Head=5000)


@pytest.mark.parametrize('kind', ['vit', 'resnet'])
def test_columns_hold_every_tuned_parameter_once(kind):
    cfg = toy.model_cfg(kind)
    cfg['text_encoder']['tuning'] = dict(
        lora=dict(type='LoRA', rank=2), bitfit=dict(type='BitFit'), prompt=dict(type='PromptTokens', num_tokens=3)
    )
    model = toy.build(cfg)
    counts = count_parameters(model)
    columns = table_columns(counts)
    tuned = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert sum(columns.values()) == counts['total'] - counts['frozen'] == tuned
    assert columns['Prompt'] == counts['prompt'] > 0 and columns['Head'] == counts['head'] > 0
    assert min(counts['bridger'], counts['tuning'], counts['backbone_tunable']) > 0
