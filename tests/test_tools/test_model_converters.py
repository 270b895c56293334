"""The converters as processes: what they refuse leaves nothing behind (test_goldens.py shows that they convert)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.quiet_start import assert_quiet
from tests.warm_process import run_script

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / 'tests' / 'data' / 'golden'


def run_tool(name, *args):
    done = run_script(ROOT / 'tools' / 'model_converters' / name, *args)
    assert_quiet(done.stdout + done.stderr)
    return done


class Runs:
    """Makes a folder when it is loaded by a loader that runs code."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


OPTIONS = dict(etris=('--bridger-heads', 4, '--head-heads', 4), cris=('--head-heads', 4))
RECORDED = dict(etris='etris_rn', cris='cris')


@pytest.mark.processes
@pytest.mark.parametrize(
    'code, fault, expected',
    [
        ('etris', 'code', 'nothing in it was run'),
        ('etris', 'unknown_key', 'no place for: module.neck.surprise.weight'),
        ('cris', 'missing_key', 'missing: module.neck.f3_cat.1.bias'),
        ('cris', 'truncated', 'bad.pth'),
        ('cris', 'heads', 'the decoder has width 64, which does not divide into 5 heads; give --head-heads'),
    ],
)
def test_a_bad_checkpoint_is_refused_in_one_line_and_nothing_is_written(tmp_path, code, fault, expected):
    path, out_dir = tmp_path / 'bad.pth', tmp_path / 'out'
    source = GOLDEN / f'{RECORDED[code]}.ckpt.pth'
    checkpoint = torch.load(source, weights_only=True)
    if fault == 'code':
        checkpoint['optimizer'] = Runs(tmp_path / 'was_run')
    elif fault == 'unknown_key':
        checkpoint['state_dict']['module.neck.surprise.weight'] = torch.ones(2)
    elif fault == 'missing_key':
        del checkpoint['state_dict']['module.neck.f3_cat.1.bias']
    torch.save(checkpoint, path)
    if fault == 'truncated':
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    options = ('--head-heads', 5) if fault == 'heads' else OPTIONS[code]
    result = run_tool(f'{code}_to_mmetris.py', path, out_dir, *options)
    assert result.returncode == 1
    assert expected in result.stderr and 'Traceback' not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not out_dir.exists() and not (tmp_path / 'was_run').exists()


@pytest.mark.processes
@pytest.mark.parametrize('code', ['etris', 'cris'])
def test_only_a_model_of_the_same_kind_goes_back(tmp_path, code):
    torch.save(dict(state_dict={'decode_head.conv_seg.weight': torch.ones(2, 2, 1, 1)}), tmp_path / 'model.pth')
    result = run_tool(f'mmetris_to_{code}.py', tmp_path, tmp_path / 'out' / 'back.pth')
    assert result.returncode == 1 and 'Traceback' not in result.stderr
    assert 'no place for: decode_head.conv_seg.weight' in result.stderr and not (tmp_path / 'out').exists()
