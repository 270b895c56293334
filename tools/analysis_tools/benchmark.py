"""Time, memory and FLOPs of a config's model, beside what a large matrix product reaches on the same machine.

    python tools/analysis_tools/benchmark.py configs/etris/etris_vitb16_refcoco.py --task infer --compare

No weights and no data are needed. docs/benchmarks.md explains the columns.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from prettytable import PrettyTable

from mmetris.benchmark import Measurement, Setting, describe_machine, measure, measure_beside
from mmetris.benchmark.tasks import DTYPES, TASKS
from mmetris.utils.command_line import add_config_arguments, load_config
from mmetris.utils.starting import in_one_line

# Slower and faster path of each ratio that is printed.
COMPARED = (('plain', 'fast'), ('unshared', 'fast'), ('fast', 'cached'), ('fast', 'compiled'))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description='Measure what a task costs')
    add_config_arguments(parser)
    parser.add_argument('--task', choices=TASKS, default='infer', help='default infer')
    parser.add_argument('--batch', type=int, default=1, help='images (data: samples); default 1')
    parser.add_argument('--expressions', type=int, help='sentences of each image, multi and train; default 8 and 1')
    parser.add_argument('--size', type=int, nargs=2, default=[416, 416], metavar=('H', 'W'), help='default 416 416')
    parser.add_argument('--dtype', choices=list(DTYPES), default='float32', help='autocast to it; default float32')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--repeats', type=int, default=10, help='timed repetitions, after a warm-up; default 10')
    which = parser.add_mutually_exclusive_group()
    which.add_argument('--plain', action='store_true', help='measure the literal computation instead')
    which.add_argument('--compare', action='store_true', help='measure both in turns')
    parser.add_argument('--plain-dtype', choices=list(DTYPES), help="of the literal computation; default --dtype's")
    parser.add_argument(
        '--unshared', action='store_true', help="measure in turns also with each sentence's image encoded by itself"
    )
    parser.add_argument(
        '--prefix-cache', action='store_true', help='measure in turns also with a prefix_cache that holds all images'
    )
    parser.add_argument('--compile', action='store_true', help='measure in turns also what torch.compile makes of it')
    parser.add_argument(
        '--plain-graph',
        choices=['stem', 'bridger'],
        default='stem',
        help='where the gradients of the literal computation end; default stem',
    )
    parser.add_argument('--channels-last', action='store_true', help='memory layout of convolutions, on both paths')
    parser.add_argument('--own-data', action='store_true', help="data: the config's own files, not drawn ones")
    parser.add_argument('--no-memory', action='store_true', help='leave out peak memory')
    parser.add_argument('--matmul-side', type=int, help='of the matrix product; default 8192 on a GPU, else 2048')
    parser.add_argument(
        '--beside', nargs='+', metavar='CONFIG', default=[], help='measure the models of these configs in turns also'
    )
    parser.add_argument('--json', action='store_true', help='print one line of JSON')
    return parser


def setting_of(args: argparse.Namespace) -> Setting:
    """What the command line asks to measure."""
    expressions = args.expressions or (8 if args.task == 'multi' else 1)
    return Setting(
        args.task,
        args.batch,
        expressions,
        tuple(args.size),
        args.dtype,
        args.plain_dtype,
        args.device,
        args.channels_last,
        args.plain_graph == 'stem',
        args.own_data,
        args.matmul_side,
    )


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End the program with one line where arguments do not go together."""
    if min(args.batch, args.repeats, args.expressions or 1, args.matmul_side or 1) < 1:
        parser.error('--batch, --expressions, --repeats and --matmul-side are 1 or more')
    if args.expressions is not None and args.task not in ('multi', 'train'):
        parser.error(f'--expressions is for the tasks multi and train, not for {args.task}')
    if args.prefix_cache and args.task not in ('infer', 'multi', 'train'):
        parser.error(f'--prefix-cache is for the tasks infer, multi and train, not for {args.task}')
    if args.unshared and not (args.task == 'multi' or (args.expressions or 1) > 1):
        parser.error('--unshared needs several sentences for each image: --task multi, or train with --expressions')
    if args.plain_dtype and not (args.plain or args.compare):
        parser.error('--plain-dtype is for --plain and --compare')
    if args.beside and (args.plain or args.compare or args.unshared or args.prefix_cache or args.compile):
        parser.error('--beside compares models as they are: leave out the options of other paths')
    if len({Path(config).stem for config in [args.config, *args.beside]}) <= len(args.beside):
        parser.error('--beside: the configs must have names of their own')
    if args.task == 'data' and (args.plain or args.compare or args.compile or args.dtype != 'float32'):
        parser.error('--task data has no model: --plain, --compare, --compile and --dtype do not apply')


def table_of(rows: Sequence[Measurement]) -> PrettyTable:
    """The measurements as a table."""
    several = rows[0].tuned is not None
    costs = ['ms', 'quartiles', 'images/s', 'sentences/s', 'GFLOP', 'GFLOP/s', '% of matmul', 'peak MB']
    table = PrettyTable([*(['model', 'tuned beside the head'] if several else ['path']), *costs], align='r')
    for row in rows:
        low, high = row.quartiles
        table.add_row(
            [
                row.path,
                *([f'{row.tuned:,}'] if several else []),
                f'{1e3 * row.median:.1f}',
                f'{1e3 * low:.1f} to {1e3 * high:.1f}',
                f'{row.images / row.median:.2f}',
                f'{row.sentences / row.median:.2f}',
                '' if row.flops is None else f'{row.flops / 1e9:.2f}',
                '' if row.flops is None else f'{row.flops / row.median / 1e9:.1f}',
                '' if row.matmul_share is None else f'{100 * row.matmul_share:.1f}',
                '' if row.peak_bytes is None else f'{row.peak_bytes / 1e6:.1f}',
            ]
        )
    return table


def ratios_of(fast: Measurement, slow: Measurement) -> dict[str, float | None]:
    """One path over a faster one: seconds, FLOPs, peak memory."""

    def over(one: float | None, other: float | None) -> float | None:
        return one / other if one and other else None

    return dict(
        seconds=over(slow.median, fast.median),
        flops=over(slow.flops, fast.flops),
        peak_bytes=over(slow.peak_bytes, fast.peak_bytes),
    )


def main() -> None:
    """Measure and print."""
    parser = build_parser()
    args = parser.parse_args()
    check(parser, args)
    cfg, setting = load_config(parser, args), setting_of(args)
    paths = ('fast', 'plain') if args.compare else ('plain',) if args.plain else ('fast',)
    paths += tuple(
        path
        for path, asked in (('unshared', args.unshared), ('cached', args.prefix_cache), ('compiled', args.compile))
        if asked
    )
    with in_one_line(parser):
        if args.beside:
            configs = {Path(args.config).stem: cfg}
            for config in args.beside:
                configs[Path(config).stem] = load_config(parser, argparse.Namespace(**{**vars(args), 'config': config}))
            rows = measure_beside(configs, setting, args.repeats, not args.no_memory)
        else:
            rows = measure(cfg, setting, paths, args.repeats, not args.no_memory)
    machine = describe_machine(args.device)
    by_path = {row.path: row for row in rows}
    ratios = {
        f'{slow}_over_{fast}': ratios_of(by_path[fast], by_path[slow])
        for slow, fast in COMPARED
        if {slow, fast} <= set(by_path)
    }
    ratios |= {f'{row.path}_over_{rows[0].path}': ratios_of(rows[0], row) for row in rows[1:] if args.beside}
    if args.json:
        print(
            json.dumps(
                dict(
                    config=args.config,
                    **vars(setting),
                    sentences=setting.sentences,
                    machine=machine,
                    measurements=[row.as_dict() for row in rows],
                    **ratios,
                )
            )
        )
        return
    print(
        f'{args.config}: {setting.task}, {setting.batch} x {setting.expressions}, '
        f'{setting.hw[0]} x {setting.hw[1]}, {setting.dtype}'
        + (f', plain {setting.plain_dtype}' if setting.plain_dtype else '')
    )
    print(', '.join(f'{name} {value}' for name, value in machine.items() if value is not None))
    print(table_of(rows))
    if rows[0].matmul_rate is not None:
        print(f'matrix product: {rows[0].matmul_rate / 1e9:.1f} GFLOP/s')
    for title, ratio in ratios.items():
        print(
            f'{title.replace("_over_", " / ")}: '
            + ', '.join(f'{name} {value:.2f}' for name, value in ratio.items() if value is not None)
        )


if __name__ == '__main__':
    main()
