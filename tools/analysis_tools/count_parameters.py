"""Count tunable and frozen parameters of configs' models, as the paper's tables do; no weights are needed.

    python tools/analysis_tools/count_parameters.py configs/etris/etris_r101_refcoco.py [--json]
    python tools/analysis_tools/count_parameters.py configs/ablation/*.py

The first table has a row for each config, in the columns and units of the paper's Table 2. Below it one config has all
its parts; ``--json`` has those of all configs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from prettytable import PrettyTable

from mmetris.utils.command_line import build_without_weights, load_config
from mmetris.utils.config_options import add_cfg_options
from mmetris.utils.param_count import count_parameters, table_columns
from mmetris.utils.starting import in_one_line

# The paper counts prompts in thousands, all else in millions.
UNITS = dict(Backbone=(1e6, 'M'), Prompt=(1e3, 'K'), Head=(1e6, 'M'))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description='Count the parameters of models')
    parser.add_argument('configs', nargs='+', metavar='config', help='config files')
    add_cfg_options(parser)
    parser.add_argument(
        '--json',
        action='store_true',
        help='print one line of JSON with plain integers; of several configs an object of these, by config',
    )
    return parser


def paper_table(counts: dict[str, dict[str, int]]) -> PrettyTable:
    """A row for each config: what is tuned, as the paper's Table 2 prints it."""
    table = PrettyTable(['config', *UNITS], align='r')
    table.align['config'] = 'l'
    for config, parts in counts.items():
        columns = table_columns(parts)
        cells = [f'{columns[name] / size:.2f} {unit}' for name, (size, unit) in UNITS.items()]
        table.add_row([Path(config).stem, *cells])
    return table


def part_table(parts: dict[str, int]) -> PrettyTable:
    """A row for each part of one model."""
    table = PrettyTable(['part', 'parameters', 'millions'], align='r')
    table.align['part'] = 'l'
    for part, count in parts.items():
        table.add_row([part, f'{count:,}', f'{count / 1e6:.2f}'])
    return table


def main() -> None:
    """Build the models on the meta device and print their counts."""
    parser = build_parser()
    args = parser.parse_args()
    counts = {}
    for config in args.configs:
        cfg = load_config(parser, argparse.Namespace(config=config, cfg_options=args.cfg_options))
        with in_one_line(parser):
            counts[config] = count_parameters(build_without_weights(cfg))
    is_one = len(args.configs) == 1
    if args.json:
        print(json.dumps(counts[args.configs[0]] if is_one else counts))
        return
    print(paper_table(counts))
    if is_one:
        print(part_table(counts[args.configs[0]]))


if __name__ == '__main__':
    main()
