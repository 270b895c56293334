"""Put pictures of one folder on one sheet: ``python tools/misc/contact_sheet.py FOLDER sheet.png --number 16``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmetris.visualization.contact_sheet import make_contact_sheet


def main() -> None:
    """Read the folder, write the sheet."""
    parser = argparse.ArgumentParser(description='Put pictures on one sheet')
    parser.add_argument('folder', help='folder of .png or .jpg pictures; folders inside it are searched too')
    parser.add_argument('out', help='picture to write')
    parser.add_argument('--columns', type=int, default=2, help='default 2')
    parser.add_argument('--number', type=int, default=16, help='pictures, evenly spread over the names; default 16')
    args = parser.parse_args()
    if args.columns < 1 or args.number < 1:
        parser.error('--columns and --number must be at least 1')
    paths = sorted(path for path in Path(args.folder).rglob('*') if path.suffix.lower() in ('.png', '.jpg', '.jpeg'))
    if not paths:
        parser.error(f'no pictures in {args.folder}')
    number = min(args.number, len(paths))
    make_contact_sheet([paths[index * len(paths) // number] for index in range(number)], args.columns, args.out)
    print(f'{args.out}: {number} of {len(paths)} pictures')


if __name__ == '__main__':
    main()
