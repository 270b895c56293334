"""The converters as processes: what they refuse leaves nothing behind (test_goldens.py shows that they convert)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.quiet_start import assert_quiet

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / 'tests' / 'data' / 'golden'


def run_tool(name, *args):
    command = [sys.executable, str(ROOT / 'tools' / 'model_converters' / name), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert_quiet(done.stdout + done.stderr)
    return done


class Runs:
    """Makes a folder when it is loaded by a loader that runs code."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.processes
@pytest.mark.parametrize('fault', ['code', 'unknown_key'])
def test_a_bad_checkpoint_is_refused_in_one_line_and_nothing_is_written(tmp_path, fault):
    path, out_dir = tmp_path / 'bad.pth', tmp_path / 'out'
    checkpoint = torch.load(GOLDEN / 'etris_rn.ckpt.pth', weights_only=True)
    if fault == 'code':
        torch.save(dict(checkpoint, optimizer=Runs(tmp_path / 'was_run')), path)
    else:
        checkpoint['state_dict']['module.neck.surprise.weight'] = torch.ones(2)
        torch.save(checkpoint, path)
    expected = dict(code='nothing in it was run', unknown_key='no place for: module.neck.surprise.weight')
    result = run_tool('etris_to_mmetris.py', path, out_dir, '--bridger-heads', 4, '--head-heads', 4)
    assert result.returncode == 1
    assert expected[fault] in result.stderr and 'Traceback' not in result.stderr
    assert not out_dir.exists() and not (tmp_path / 'was_run').exists()


@pytest.mark.processes
def test_only_a_model_of_the_released_variant_goes_back(tmp_path):
    torch.save(dict(state_dict={'decode_head.conv_seg.weight': torch.ones(2, 2, 1, 1)}), tmp_path / 'model.pth')
    result = run_tool('mmetris_to_etris.py', tmp_path, tmp_path / 'out' / 'back.pth')
    assert result.returncode == 1 and 'Traceback' not in result.stderr
    assert 'no place for: decode_head.conv_seg.weight' in result.stderr and not (tmp_path / 'out').exists()
