"""Draw the Shapes data set, a small stand-in for RefCOCO in RefCOCO's own layout.

python tools/dataset_tools/make_shapes.py data/shapes
python tools/dataset_tools/make_shapes.py data/shapes_grefs --layout grefcoco   # sentences of no, one, many objects
python tools/dataset_tools/make_shapes.py data/shapes_semseg --layout semseg     # labels instead of sentences
"""

import argparse
import sys
import time
from pathlib import Path

try:
    from mmetris.datasets.shapes import KINDS, LAYOUTS, ShapesSpec, write_shapes
except ModuleNotFoundError as error:  # run from a checkout that is not installed
    if error.name != 'mmetris':
        raise
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from mmetris.datasets.shapes import KINDS, LAYOUTS, ShapesSpec, write_shapes


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    default = ShapesSpec()
    parser.add_argument('out', nargs='?', default='data/shapes', help='folder to write (default: data/shapes)')
    parser.add_argument('--seed', type=int, default=default.seed)
    parser.add_argument('--num-train', type=int, default=default.num_train, help='images of split train')
    parser.add_argument('--num-val', type=int, default=default.num_val, help='images of split val')
    parser.add_argument('--num-test-a', type=int, default=default.num_test_a, help='images of split testA')
    parser.add_argument('--num-test-b', type=int, default=default.num_test_b, help='images of split testB (crowded)')
    parser.add_argument(
        '--objects',
        type=int,
        nargs=2,
        metavar=('FEWEST', 'MOST'),
        help='objects of an image in train, val and testA, 2 to 6; default 2 to 4 (testB has 5 or 6)',
    )
    parser.add_argument(
        '--kinds',
        nargs='+',
        choices=KINDS,
        default=KINDS,
        help='kinds of sentences; default all three',
    )
    parser.add_argument(
        '--layout',
        choices=LAYOUTS,
        default='refcoco',
        help="'refcoco' with sentences of one object (default), 'grefcoco' with sentences of no, one and several, "
        "'semseg' with labels by colour and shape",
    )
    parser.add_argument('--workers', type=int, default=0, help='drawing processes; 0 draws in this one')
    parser.add_argument('--force', action='store_true', help='replace what the folder holds')
    return parser.parse_args()


def main() -> None:
    """Write the data set and say what was done; bad arguments end with one line and exit status 2."""
    args = parse_args()
    started = time.monotonic()
    try:
        spec = ShapesSpec(
            args.seed,
            args.num_train,
            args.num_val,
            args.num_test_a,
            args.num_test_b,
            num_objects=tuple(args.objects) if args.objects else None,
            kinds=tuple(kind for kind in KINDS if kind in args.kinds),
        )
        written = write_shapes(args.out, spec, workers=args.workers, force=args.force, layout=args.layout)
    except (ValueError, FileExistsError) as error:
        print(f'make_shapes: {error}', file=sys.stderr)
        sys.exit(2)
    counts = ', '.join(f'{split} {count}' for split, count in spec.counts.items())
    if written:
        print(f'{args.out}: images {counts} (seed {spec.seed}), {time.monotonic() - started:.0f} s')
    else:
        print(f'{args.out} already holds these images ({counts}, seed {spec.seed}); nothing to do')


if __name__ == '__main__':
    main()
