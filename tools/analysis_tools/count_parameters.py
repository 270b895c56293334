"""Count tunable and frozen parameters of a config's model, as the paper's tables do; no weights are needed.

python tools/analysis_tools/count_parameters.py configs/etris/etris_r101_refcoco.py [--json]
"""

from __future__ import annotations

import argparse
import json

from prettytable import PrettyTable

from mmetris.utils.command_line import add_config_arguments, build_without_weights, load_config
from mmetris.utils.param_count import count_parameters


def main() -> None:
    """Build the model on the meta device and print its counts."""
    parser = argparse.ArgumentParser(description='Count the parameters of a model')
    add_config_arguments(parser)
    parser.add_argument('--json', action='store_true', help='print one line of JSON with plain integers')
    args = parser.parse_args()
    counts = count_parameters(build_without_weights(load_config(parser, args)))
    if args.json:
        print(json.dumps(counts))
        return
    table = PrettyTable(['part', 'parameters', 'millions'], align='r')
    table.align['part'] = 'l'
    for part, count in counts.items():
        table.add_row([part, f'{count:,}', f'{count / 1e6:.2f}'])
    print(table)


if __name__ == '__main__':
    main()
