"""The summary of a training's log."""

from __future__ import annotations

import csv
import json

import pytest

from tests.test_tools.test_tools import TOOLS, run

SCORES = {'oIoU': 40.0, 'Pr@0.5': 50.0, 'Pr@0.7': 20.0, 'Pr@0.9': 1.0}


def write_log(folder, name, entries):
    path = folder / name / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(json.dumps(entry) + '\n' for entry in entries))


def train(epoch, step, loss, time=6.0):
    return dict(loss=loss, time=time, epoch=epoch, iter=step, step=step)


def test_epochs_are_summarised_and_a_resumed_log_replaces_what_it_repeats(tmp_path):
    write_log(
        tmp_path,
        '20260101_000000',
        [
            train(1, 10, 0.4),
            train(1, 20, 0.2),
            dict(mIoU=30.0, step=1, **SCORES),
            train(2, 30, 9.0),
            train(2, 40, 9.0),
            dict(mIoU=1.0, step=2, **SCORES),
        ],
    )
    write_log(tmp_path, '20260102_000000', [train(2, 30, 0.1), train(2, 40, 0.1), dict(mIoU=45.5, step=2, **SCORES)])
    output = run(
        TOOLS / 'analysis_tools' / 'training_curve.py',
        tmp_path,
        '--out',
        tmp_path / 'curve.png',
        '--csv',
        tmp_path / 'curve.csv',
    )
    assert '45.50' in output
    first, second = csv.DictReader((tmp_path / 'curve.csv').open())
    assert float(first['loss']) == pytest.approx(0.3) and float(first['minutes']) == pytest.approx(20 * 6 / 60)
    assert float(second['minutes']) == pytest.approx(20 * 6 / 60)
    assert float(second['mIoU']) == 45.5 and float(second['loss']) == pytest.approx(0.1)
    assert (tmp_path / 'curve.png').read_bytes().startswith(b'\x89PNG')


def test_trainings_that_continue_one_another_are_one_curve(tmp_path):
    stages = [tmp_path / 'first', tmp_path / 'second']
    write_log(
        stages[0],
        '20260101_000000',
        [train(1, 10, 0.4), dict(mIoU=30.0, step=1, **SCORES), train(2, 20, 0.4), dict(mIoU=40.0, step=2, **SCORES)],
    )
    write_log(stages[1], '20260102_000000', [train(1, 5, 0.2, time=12.0), dict(mIoU=50.0, step=1, **SCORES)])
    run(TOOLS / 'analysis_tools' / 'training_curve.py', *stages, '--csv', tmp_path / 'curve.csv')
    rows = list(csv.DictReader((tmp_path / 'curve.csv').open()))
    assert [(row['epoch'], float(row['mIoU'])) for row in rows] == [('1', 30), ('2', 40), ('3', 50)]
    assert [float(row['minutes']) for row in rows] == pytest.approx([1, 1, 1])


def test_a_folder_without_a_log_is_named(tmp_path):
    assert 'has no */vis_data/scalars.json' in run(TOOLS / 'analysis_tools' / 'training_curve.py', tmp_path, code=1)
