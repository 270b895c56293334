"""Convert a checkpoint of DETRIS's code.

    python tools/model_converters/detris_to_mmetris.py best_model.pth converted/

writes ``converted/config.py`` and ``converted/model.pth``, which tools/test.py, tools/train.py and ``init_model`` of
mmetris.apis take. Widths, depths and the places of the adapters are read from the weights' keys and shapes; attention
heads, the blocks whose outputs the decoder reads, and the length of the sentences leave no trace there and are options.
Every key used is printed; if one cannot be placed or is missing, nothing is written.
"""

from __future__ import annotations

from pathlib import Path

from mmetris.apis.conversion import conversion_parser, convert_published
from mmetris.models.converters import DETRIS
from mmetris.models.converters.detris_sizes import ALIGN_HEADS

# What surrounds the model: data, schedule, hooks.
RECIPES = dict(dinov2=Path(__file__).resolve().parents[2] / 'configs' / 'detris' / 'detris_base_refcoco.py')


def main() -> None:
    """Read the command line, convert."""
    parser = conversion_parser(DETRIS)
    parser.add_argument(
        '--align-heads',
        type=int,
        default=ALIGN_HEADS,
        metavar='N',
        help="attention heads of the image adapters, which read the words (the code's nhead); default %(default)s",
    )
    parser.add_argument(
        '--out-blocks',
        type=int,
        nargs=2,
        metavar=('I', 'J'),
        help="blocks of the DINOv2, from 0, whose outputs are the decoder's first two maps (the code's output_dinov2); "
        'default a third and two thirds of them: 4 8 of 12, 8 16 of 24',
    )
    parser.add_argument(
        '--without-adapters',
        action='store_true',
        help='take weights whose image or text encoder has no adapter, which are refused without this',
    )
    args = parser.parse_args()
    convert_published(
        DETRIS,
        args,
        RECIPES,
        align_heads=args.align_heads,
        out_blocks=args.out_blocks,
        without_adapters=args.without_adapters,
    )


if __name__ == '__main__':
    main()
