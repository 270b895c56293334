"""Convert a checkpoint of CRIS's code.

    python tools/model_converters/cris_to_mmetris.py best_model.pth converted/

writes ``converted/config.py`` and ``converted/model.pth``, which tools/test.py, tools/train.py and ``init_model`` of
mmetris.apis take. Widths and depths are read from the weights' shapes; attention heads and the length of the sentences
leave no trace there and are options. Every key used is printed; if one cannot be placed or is missing, nothing is
written.
"""

from __future__ import annotations

from pathlib import Path

from mmetris.apis.conversion import conversion_parser, convert_published
from mmetris.models.converters import CRIS

# What surrounds the model: data, schedule, hooks.
RECIPES = dict(resnet=Path(__file__).resolve().parents[2] / 'configs' / 'cris' / 'cris_r101_refcoco.py')


def main() -> None:
    """Read the command line, convert."""
    convert_published(CRIS, conversion_parser(CRIS).parse_args(), RECIPES)


if __name__ == '__main__':
    main()
