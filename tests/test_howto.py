"""docs/howto.md does what it says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch
from mmengine.registry import DefaultScope

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r'```python\n(.*?)```', (ROOT / 'docs' / 'howto.md').read_text(encoding='utf-8'), re.DOTALL)


def test_all_parts_work_from_top_to_bottom(tmp_path, monkeypatch):
    """Blocks that begin with a file's name are written to it, the others run in order in one namespace."""
    for folder in ('configs', 'pretrained'):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(0)
    space: dict = {}
    files = []
    with DefaultScope.overwrite_default_scope('mmetris'):
        for block in BLOCKS:
            if name := re.match(r'# (\w+\.py)\n', block):
                Path(name[1]).write_text(block, encoding='utf-8')
                files.append(name[1])
            else:
                exec(compile(block, 'docs/howto.md', 'exec'), space)
    parts = ('encoder', 'dataset', 'head', 'tuning', 'metric')
    assert files == [f'my_{part}{end}.py' for part in parts for end in ('', '_shapes')]
    assert all(f'my_{part}' in sys.modules for part in parts)
