"""The tutorial docs/add_the_bridger.md does what it says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope

from tests import toy

ROOT = Path(__file__).parents[1]
TUTORIAL = (ROOT / 'docs' / 'add_the_bridger.md').read_text(encoding='utf-8')
BLOCKS = re.findall(r'```python\n(.*?)```', TUTORIAL, re.DOTALL)


def test_the_tutorial_runs_from_top_to_bottom(tmp_path, monkeypatch):
    """Blocks that begin with a file's name are written to it, the others run in order; what they print is promised."""
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    space, printed, files = {}, io.StringIO(), []
    with DefaultScope.overwrite_default_scope('mmseg'), contextlib.redirect_stdout(printed):
        for block in BLOCKS:
            if name := re.match(r'# (\w+\.py)\n', block):
                Path(name[1]).write_text(block, encoding='utf-8')
                files.append(name[1])
            else:
                exec(compile(block, 'docs/add_the_bridger.md', 'exec'), space)
    assert files == ['my_segformer.py', 'my_segformer_bridger.py']
    promised = re.findall(r'^# (.*stride \d+)$', TUTORIAL, re.MULTILINE)
    assert len(promised) == 3 and set(promised) <= set(printed.getvalue().split('\n'))
    assert "'layers.1.1.1'" in printed.getvalue()


@pytest.mark.parametrize(
    'row, change',
    enumerate(
        [
            dict(stages=('layer5',)),
            dict(stages=('stages.1',)),
            dict(backbone=dict(type='mmseg.ICNet', backbone_cfg=dict(type='ResNetV1c', depth=18))),
            dict(stages=('stages.2.blocks.0', 'stages.1.blocks.0')),
            dict(stages=(1, 2, 3, 4)),
            dict(
                stages=(
                    'stages.0.blocks.0',
                    *(f'stages.{stage}.blocks.0{end}' for stage in (1, 3) for end in ('.ffn', '')),
                )
            ),
            dict(
                backbone=dict(type='BEiT', img_size=(64, 64), patch_size=8, embed_dims=24, num_layers=4, num_heads=2),
                input_hw=(32, 32),
            ),
        ]
    ),
)
def test_the_errors_of_the_last_table_are_those_of_the_code(row, change):
    rows = [line for line in TUTORIAL.split('## 8.')[1].split('\n') if line.startswith('| `')]
    assert len(rows) == 7
    message = rows[row].split('|')[1].strip().strip('`')
    swin = dict(type='SwinTransformer', embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), window_size=4)
    cfg = dict(backbone=swin, class_text=dict(arch=toy.VIT, vocabulary=dict(classes=['a', 'b'])))
    with pytest.raises(ValueError) as raised:
        toy.build(dict(type='BridgedBackbone', **cfg) | change)
    text = str(raised.value)
    for piece in message.split('...'):
        assert piece.strip() in text
