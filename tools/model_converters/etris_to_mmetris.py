"""Convert a checkpoint of the released ETRIS code.

    python tools/model_converters/etris_to_mmetris.py best_model.pth converted/

writes ``converted/config.py`` and ``converted/model.pth``, which tools/test.py, tools/train.py and ``init_model`` of
mmetris.apis take. Widths, depths and grids are read from the weights' shapes; attention heads and the length of the
sentences leave no trace there and are options. Every key used is printed; if one cannot be placed or is missing,
nothing is written.
"""

from __future__ import annotations

from pathlib import Path

from mmetris.apis.conversion import conversion_parser, convert_published
from mmetris.models.converters import ETRIS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'etris_released'
# What surrounds the model: data, schedule, hooks.
RECIPES = dict(resnet=CONFIGS / 'etris_released_r101_refcoco.py', vit=CONFIGS / 'etris_released_vitb16_refcoco.py')


def main() -> None:
    """Read the command line, convert."""
    parser = conversion_parser(ETRIS)
    parser.add_argument(
        '--bridger-heads',
        type=int,
        metavar='N',
        help="attention heads of the Bridger (the code's nhead); default 4 (ResNet) or 8 (ViT)",
    )
    args = parser.parse_args()
    convert_published(ETRIS, args, RECIPES, bridger_heads=args.bridger_heads)


if __name__ == '__main__':
    main()
