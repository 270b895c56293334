"""Convert a checkpoint of the released variant back to the layout of the released ETRIS code.

    python tools/model_converters/mmetris_to_etris.py converted/model.pth published.pth

A file that etris_to_mmetris.py wrote returns to what it came from, bit by bit. One that was trained here gets defaults
for what mmetris has no use for: ``logit_scale`` ln 100, as in OpenAI's CLIP, and the epoch it was saved at.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmetris.models.converters import to_published
from mmetris.utils.checkpoint_io import read_checkpoint, save_checkpoint


def main() -> None:
    """Read, convert, write."""
    parser = argparse.ArgumentParser(description='Convert a checkpoint to the layout of the released ETRIS code')
    parser.add_argument('checkpoint', help='full checkpoint of the released variant, or a folder with its model.pth')
    parser.add_argument('out', help='file to write; a name without suffix is a folder, for model.pth in it')
    args = parser.parse_args()
    source, out = Path(args.checkpoint), Path(args.out)
    if source.is_dir():
        source = source / 'model.pth'
    if out.is_dir() or not out.suffix:
        out = out / 'model.pth'
    try:
        published = to_published(read_checkpoint(source))
        save_checkpoint(out, published)
    except (ValueError, OSError) as error:
        sys.exit(f'{type(error).__name__}: {error}')
    others = [name for name in published if name != 'state_dict']
    print(f'{len(published["state_dict"])} keys and {", ".join(others) or "no other entry"} written: {out}')


if __name__ == '__main__':
    main()
