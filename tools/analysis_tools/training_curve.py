"""Summarise a training's log: one row for each evaluated epoch, as table and as figure.

    python tools/analysis_tools/training_curve.py work_dirs/etris_tiny_shapes --out curve.png
    python tools/analysis_tools/training_curve.py work_dirs/first_stage work_dirs/second_stage

Loss is the mean over the epoch's log entries, time the sum of its steps (without evaluation). A training that was
resumed has several logs; they are read in their order, and a later one replaces the epochs that it repeats. Of several
work folders, each a training that started from the one before, the epochs are counted on.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import mean

from prettytable import PrettyTable

SCORES = ('oIoU', 'mIoU', 'Pr@0.5', 'Pr@0.7', 'Pr@0.9')


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description='Table and figure of a training')
    parser.add_argument(
        'work_dirs',
        type=Path,
        nargs='+',
        metavar='work_dir',
        help='work folder of tools/train.py; several: of trainings that continue one another',
    )
    parser.add_argument('--out', type=Path, help='figure to write (.png, .pdf, .svg)')
    parser.add_argument('--csv', type=Path, help='table to write')
    return parser


def read_log(work_dir: Path) -> list[dict]:
    """One dict for each evaluated epoch: ``epoch``, ``loss``, ``minutes`` and the scores in percent.

    Raises:
        FileNotFoundError: If the folder holds no log of MMEngine's.
        ValueError: If no epoch has been evaluated.
    """
    paths = sorted(work_dir.glob('*/vis_data/scalars.json'))
    if not paths:
        raise FileNotFoundError(f'{work_dir} has no */vis_data/scalars.json; is it the work folder of a training?')
    epochs: dict[int, dict] = {}
    last_step = {0: 0}  # of each epoch, counted since the training began
    for path in paths:
        steps: dict[int, list[dict]] = {}
        for entry in map(json.loads, path.read_text().splitlines()):
            if 'loss' in entry:
                steps.setdefault(entry['epoch'], []).append(entry)
                last_step[entry['epoch']] = entry['step']
            elif 'mIoU' in entry and entry['step'] in steps:
                epoch = entry['step']
                done, num_steps = steps[epoch], last_step[epoch] - last_step.get(epoch - 1, 0)
                epochs[epoch] = dict(
                    epoch=epoch,
                    loss=mean(step['loss'] for step in done),
                    minutes=mean(step['time'] for step in done) * num_steps / 60,
                    **{name: entry[name] for name in SCORES},
                )
    if not epochs:
        raise ValueError(f'{work_dir}: no epoch of this training has been evaluated')
    return [epochs[epoch] for epoch in sorted(epochs)]


def join(trainings: Iterable[list[dict]]) -> list[dict]:
    """Rows of trainings that continue one another, epochs counted on from the last of each."""
    rows: list[dict] = []
    for training in trainings:
        done = rows[-1]['epoch'] if rows else 0
        rows += [dict(row, epoch=done + row['epoch']) for row in training]
    return rows


def table_of(rows: list[dict]) -> PrettyTable:
    """The rows as a table."""
    table = PrettyTable(list(rows[0]))
    for row in rows:
        table.add_row(
            [value if name == 'epoch' else f'{value:.{4 if name == "loss" else 2}f}' for name, value in row.items()]
        )
    return table


def draw(rows: list[dict], out: Path) -> None:
    """Scores and loss over epochs."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    epochs = [row['epoch'] for row in rows]
    figure, left = pyplot.subplots(figsize=(6, 3.6), layout='constrained')
    for name, style in zip(('mIoU', 'oIoU', 'Pr@0.5'), ('-', '--', ':')):
        left.plot(epochs, [row[name] for row in rows], style, marker='o', markersize=3, color='tab:blue', label=name)
    left.set(xlabel='epoch', ylabel='val, percent', xticks=epochs if len(epochs) <= 20 else None)
    left.grid(alpha=0.3)
    right = left.twinx()
    right.plot(epochs, [row['loss'] for row in rows], color='tab:orange', label='training loss')
    right.set(ylabel='training loss')
    lines = left.get_lines() + right.get_lines()
    figure.legend(lines, [line.get_label() for line in lines], loc='outside upper center', ncols=4, frameon=False)
    figure.savefig(out, dpi=150)


def main() -> None:
    args = build_parser().parse_args()
    try:
        rows = join(read_log(work_dir) for work_dir in args.work_dirs)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'error: {error}')
    print(table_of(rows))
    if args.csv is not None:
        with open(args.csv, 'w', newline='', encoding='utf-8') as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows({name: round(value, 4) for name, value in row.items()} for row in rows)
    if args.out is not None:
        draw(rows, args.out)


if __name__ == '__main__':
    main()
