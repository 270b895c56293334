"""Train several configs over several seeds with one budget, and compare what they reach.

    python tools/analysis_tools/compare_configs.py \
        configs/etris/etris_tiny_shapes.py configs/etris/etris_tiny_no-bridger_shapes.py --seeds 0 1 2

Every config is trained by ``tools/dist_train.sh`` and its best checkpoint tested by ``tools/dist_test.sh`` on the
splits asked for. A run that has been tested already is not repeated, so that an interrupted comparison goes on. The
table, also written as ``comparison.json``, has mean and standard deviation over the seeds; with ``--kinds`` it also has
mIoU by kind of sentence. Shapes writes three sentences for each object, always in the order attribute, place, relation,
so the kind is the rest of ``sent_id`` by 3.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from prettytable import PrettyTable

from mmetris.apis.model_zoo import config_path

ROOT = Path(__file__).parents[2]
KINDS = ('attribute', 'place', 'relation')


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description='Compare configs over several seeds')
    parser.add_argument('configs', nargs='+', help='config files')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], help='default 0 1 2')
    parser.add_argument('--splits', nargs='+', default=['val'], help='splits to test; default val')
    parser.add_argument('--processes', type=int, default=2, help='processes of a training; default 2')
    parser.add_argument('--work-dir', default='work_dirs/compare', help='default work_dirs/compare')
    parser.add_argument('--kinds', action='store_true', help='mIoU by kind of sentence (Shapes only)')
    parser.add_argument('--cfg-options', nargs='+', default=[], help='settings for all configs, key=value')
    return parser


def run(*command: str | Path) -> None:
    """Run a tool of ours to its end; if it fails, which its output has explained, so does this program."""
    command = [str(part) for part in command]
    if subprocess.run(command, cwd=ROOT, env=dict(os.environ, PYTHON=sys.executable)).returncode:
        sys.exit(f'error: failed: {" ".join(command)}')


def train_and_test(config: Path, seed: int, folder: Path, args: argparse.Namespace) -> None:
    """Train one config with one seed, then write one IoU for each sentence of each split below ``folder``."""
    options = ['--cfg-options', f'randomness.seed={seed}', *args.cfg_options]
    run('bash', 'tools/dist_train.sh', config, str(args.processes), '--work-dir', folder, *options)
    checkpoint = max(folder.glob('best_*.pth'), key=os.path.getmtime)
    for split in args.splits:
        masks = folder / split
        run(
            'bash',
            'tools/dist_test.sh',
            config,
            checkpoint,
            str(args.processes),
            '--work-dir',
            folder / 'test',
            '--split',
            split,
            '--out',
            masks,
            *options,
        )


def read_ious(folder: Path) -> list[dict]:
    """The rows of the table that ``tools/test.py --out`` wrote."""
    rows = []
    for path in sorted(folder.glob('sentences*.csv')):
        with open(path, newline='', encoding='utf-8-sig') as file:
            rows.extend(csv.DictReader(file))
    return rows


def scores_of(rows: list[dict], kinds: bool) -> dict[str, float]:
    """mIoU in percent (as the table has it) over all sentences and, if asked for, over those of each kind."""
    groups = defaultdict(list)
    for row in rows:
        groups['mIoU'].append(float(row['iou']))
        if kinds:
            sent_id = int(row['name'].rpartition('_')[2])
            groups[KINDS[sent_id % 3]].append(float(row['iou']))
    return {name: statistics.fmean(values) for name, values in groups.items()}


def main() -> None:
    """Run what is missing, then print and save the comparison."""
    parser = build_parser()
    args = parser.parse_args()
    try:
        configs = [config_path(config).resolve() for config in args.configs]
    except FileNotFoundError as error:
        parser.error(str(error))
    work = Path(args.work_dir).resolve()
    results = []
    for config in configs:
        for seed in args.seeds:
            folder = work / config.stem / f'seed{seed}'
            if not all(read_ious(folder / split) for split in args.splits):
                train_and_test(config, seed, folder, args)
            for split in args.splits:
                scores = scores_of(read_ious(folder / split), args.kinds)
                results.append(dict(config=config.stem, seed=seed, split=split, **scores))

    names = ['mIoU', *(KINDS if args.kinds else ())]
    table = PrettyTable(['config', 'split', 'seeds', *names])
    for config in configs:
        for split in args.splits:
            rows = [row for row in results if (row['config'], row['split']) == (config.stem, split)]
            cells = []
            for name in names:
                values = [row[name] for row in rows]
                spread = f' ± {statistics.stdev(values):.2f}' if len(values) > 1 else ''
                cells.append(f'{statistics.fmean(values):.2f}{spread}')
            table.add_row([config.stem, split, len(rows), *cells])
    (work / 'comparison.json').write_text(json.dumps(results, indent=2) + '\n', encoding='utf-8')
    print(table.get_string())


if __name__ == '__main__':
    main()
