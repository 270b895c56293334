"""The benchmark's command line, in a real process."""

import json
from pathlib import Path

import pytest

from tests.quiet_start import assert_quiet
from tests.warm_process import run_script

ROOT = Path(__file__).parents[2]
TINY = 'configs/etris/etris_tiny_shapes.py'


def run(*arguments):
    result = run_script(ROOT / 'tools/analysis_tools/benchmark.py', TINY, '--device', 'cpu', *arguments)
    assert_quiet(result.stdout + result.stderr)
    return result


@pytest.mark.processes
def test_a_comparison_in_json_has_both_paths_and_their_ratio():
    result = run(
        '--task',
        'multi',
        '--expressions',
        '2',
        '--size',
        '64',
        '64',
        '--repeats',
        '1',
        '--matmul-side',
        '64',
        '--compare',
        '--json',
    )
    assert result.returncode == 0, result.stderr
    content = json.loads(result.stdout.splitlines()[-1])
    fast, plain = content['measurements']
    assert (fast['path'], plain['path']) == ('fast', 'plain')
    assert content['plain_over_fast']['flops'] == pytest.approx(plain['flops'] / fast['flops'])
    assert content['plain_over_fast']['seconds'] == pytest.approx(plain['median_s'] / fast['median_s'])
    assert fast['peak_bytes'] >= 0 and content['machine']['torch'] and content['sentences'] == 2


@pytest.mark.processes
def test_models_are_measured_side_by_side():
    small = '--size 64 64 --repeats 1 --matmul-side 64 --no-memory --task train'.split()
    result = run(*small, '--beside', 'configs/etris/etris_tiny_no-bridger_shapes.py')
    assert result.returncode == 0, result.stderr
    assert 'tuned beside the head' in result.stdout
    rows = {
        line.split('|')[1].strip(): line.split('|')[2].strip() for line in result.stdout.splitlines() if '|' in line
    }
    assert rows['etris_tiny_no-bridger_shapes'] == '0' and int(rows['etris_tiny_shapes'].replace(',', '')) > 10_000
    assert 'etris_tiny_no-bridger_shapes / etris_tiny_shapes: seconds' in result.stdout


@pytest.mark.processes
@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--task', 'infer', '--expressions', '2'], 'multi and train'),
        (['--task', 'infer', '--unshared'], 'needs several sentences'),
        (['--task', 'infer', '--plain-dtype', 'float32'], 'for --plain and --compare'),
        (['--task', 'data', '--compare'], 'has no model'),
        (['--task', 'semseg'], 'takes a ClassNameSegmentor'),
        (['--beside', TINY], 'names of their own'),
        (['--beside', 'configs/etris/etris_tiny_no-bridger_shapes.py', '--compare'], 'leave out the options'),
        (['--beside', 'configs/etris/nothing.py'], 'config file not found: configs/etris/nothing.py'),
    ],
)
def test_mistakes_end_with_one_line(arguments, message):
    result = run(*arguments)
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[-1]
