"""Draw Shapes for classification: folders of pictures whose one large object is the class.

python projects/classification/make_shapes.py data/shapes_classes
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from projects.classification.classification.shapes import FoldersSpec, write_folders  # noqa: E402


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    default = FoldersSpec()
    parser.add_argument('out', nargs='?', default='data/shapes_classes', help='folder (default: data/shapes_classes)')
    parser.add_argument('--seed', type=int, default=default.seed)
    parser.add_argument('--num-train', type=int, default=default.num_train, help='pictures of split train')
    parser.add_argument('--num-val', type=int, default=default.num_val, help='pictures of split val')
    parser.add_argument('--num-test', type=int, default=default.num_test, help='pictures of split test')
    parser.add_argument(
        '--objects',
        type=int,
        nargs=2,
        metavar=('FEWEST', 'MOST'),
        default=default.num_objects,
        help='objects of a picture, 1 to 6; default 2 to 4',
    )
    parser.add_argument('--all-classes', action='store_true', help='hold out no class of split train')
    parser.add_argument('--force', action='store_true', help='replace what the folder holds')
    return parser.parse_args()


def main() -> None:
    """Write the data set and say what was done; bad arguments end with one line and exit status 2."""
    args, started = parse_args(), time.monotonic()
    held_out = () if args.all_classes else FoldersSpec.held_out
    try:
        numbers = (args.seed, args.num_train, args.num_val, args.num_test)
        spec = FoldersSpec(*numbers, num_objects=tuple(args.objects), held_out=held_out)
        written = write_folders(args.out, spec, args.force)
    except (ValueError, FileExistsError) as error:
        print(f'make_shapes: {error}', file=sys.stderr)
        sys.exit(2)
    told = ', '.join(f'{split} {count}' for split, count in spec.counts.items()) + f' (seed {spec.seed})'
    done = f'{time.monotonic() - started:.0f} s' if written else 'already there'
    print(f'{args.out}: {told}, {done}')


if __name__ == '__main__':
    main()
