"""Print a config with its bases and overrides resolved: ``python tools/misc/print_config.py CONFIG``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmetris.utils.command_line import add_config_arguments, build_without_weights, load_config
from mmetris.utils.starting import in_one_line


def main() -> None:
    """Read the config, print it, save it where asked."""
    parser = argparse.ArgumentParser(description='Print the whole config')
    add_config_arguments(parser)
    parser.add_argument('--out', metavar='FILE', help='also write it to this file (.py, .json or .yml)')
    parser.add_argument('--graph', action='store_true', help="also print the model's modules, built without weights")
    args = parser.parse_args()
    if args.out and Path(args.out).suffix not in ('.py', '.json', '.yml', '.yaml'):
        parser.error(f'--out {args.out}: write a config as .py, .json or .yml')
    cfg = load_config(parser, args)
    print(cfg.pretty_text)
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        cfg.dump(args.out)
    if args.graph:
        with in_one_line(parser):
            print(build_without_weights(cfg))


if __name__ == '__main__':
    main()
