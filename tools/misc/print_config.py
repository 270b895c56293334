"""Print a config with its bases and overrides resolved: ``python tools/misc/print_config.py CONFIG``."""

from __future__ import annotations

import argparse

from mmetris.utils.command_line import add_config_arguments, build_without_weights, load_config


def main() -> None:
    """Read the config, print it, save it where asked."""
    parser = argparse.ArgumentParser(description='Print the whole config')
    add_config_arguments(parser)
    parser.add_argument('--out', metavar='FILE', help='also write it to this file (.py, .json or .yml)')
    parser.add_argument('--graph', action='store_true', help="also print the model's modules, built without weights")
    args = parser.parse_args()
    cfg = load_config(parser, args)
    print(cfg.pretty_text)
    if args.out:
        cfg.dump(args.out)
    if args.graph:
        print(build_without_weights(cfg))


if __name__ == '__main__':
    main()
