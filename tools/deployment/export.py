"""Export a model to ONNX and torch.export files that run without mmetris.

    python tools/deployment/export.py --out-dir exported                       # the demo model
    python tools/deployment/export.py work_dirs/etris_r101_refcoco --out-dir exported --format both
    python tools/deployment/export.py CONFIG --weights CHECKPOINT --out-dir exported --parts split --size 480 480

Each file is run and compared with the model; one that deviates by more than 1e-3 is not kept. See docs/export.md.
"""

from __future__ import annotations

import mmetris.threads  # noqa: F401  PyTorch reads what it sets when it is imported

# isort: split

import argparse
import sys
from pathlib import Path

FORMATS = ('onnx', 'torch')
PARTS = ('whole', 'split')
OPSET = 18


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description='Export a model to ONNX and torch.export')
    parser.add_argument(
        'model',
        nargs='?',
        help='config file, name in the model index, folder of a training, or '
        '"demo"; default: the demo model, which knows drawn shapes only',
    )
    parser.add_argument('--weights', help='checkpoint; default: the one that belongs to the model')
    parser.add_argument('--out-dir', type=Path, required=True, help='folder to write; must not exist')
    parser.add_argument('--format', choices=[*FORMATS, 'both'], default='onnx', help='default: onnx')
    parser.add_argument(
        '--parts',
        choices=[*PARTS, 'both'],
        default='both',
        help='whole: one file; split: what precedes the sentence and the rest; default: both',
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help="height and width of the network's input; default: the config's",
    )
    parser.add_argument('--opset', type=int, default=OPSET, help=f'ONNX operator set; default {OPSET}')
    parser.add_argument(
        '--no-check', dest='check', action='store_false', help='do not run the files and compare them with the model'
    )
    parser.add_argument('--force', action='store_true', help='replace an earlier export in --out-dir')
    return parser


def main() -> None:
    """Export, and say what was written."""
    parser = build_parser()
    args = parser.parse_args()
    if args.opset < OPSET:
        parser.error(f'--opset {args.opset}: PyTorch writes {OPSET} or newer')
    from mmetris.deployment import DeviationError, export_model
    from mmetris.utils.starting import in_one_line

    try:
        export_model(
            None if args.model in (None, 'demo') else args.model,
            args.out_dir,
            args.weights,
            formats=list(FORMATS) if args.format == 'both' else [args.format],
            parts=list(PARTS) if args.parts == 'both' else [args.parts],
            size=args.size,
            opset=args.opset,
            check=args.check,
            force=args.force,
        )
    except (KeyError, TypeError) as error:  # Of a config that no model can be built from; else it is raised again.
        with in_one_line(parser):
            raise error
    except DeviationError as error:
        sys.exit(f'error: {error}')
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        parser.error(' '.join(str(error).split()))
    for path in sorted(args.out_dir.iterdir()):
        print(f'{path}: {path.stat().st_size / 1e6:.1f} MB')


if __name__ == '__main__':
    main()
