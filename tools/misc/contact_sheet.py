"""Put pictures of one folder on one sheet: ``python tools/misc/contact_sheet.py FOLDER sheet.png --number 16``."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image


def contact_sheet(pictures: list[Image.Image], columns: int, gap: int = 8) -> Image.Image:
    """Arrange pictures in rows on white, each at its own size in a cell as large as the largest.

    Args:
        pictures: At least one RGB picture.
        columns: Pictures in a row.
        gap: White pixels between cells and around them.
    """
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    width, height = max(picture.width for picture in pictures), max(picture.height for picture in pictures)
    sheet = Image.new('RGB', (columns * (width + gap) + gap, rows * (height + gap) + gap), 'white')
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        sheet.paste(picture, (gap + column * (width + gap), gap + row * (height + gap)))
    return sheet


def main() -> None:
    """Read the folder, write the sheet."""
    parser = argparse.ArgumentParser(description='Put pictures on one sheet')
    parser.add_argument('folder', help='folder of .png or .jpg pictures; folders inside it are searched too')
    parser.add_argument('out', help='picture to write')
    parser.add_argument('--columns', type=int, default=4, help='default 4')
    parser.add_argument('--number', type=int, default=16, help='pictures, evenly spread over the names; default 16')
    args = parser.parse_args()
    if args.columns < 1 or args.number < 1:
        parser.error('--columns and --number must be at least 1')
    paths = sorted(path for path in Path(args.folder).rglob('*') if path.suffix.lower() in ('.png', '.jpg', '.jpeg'))
    if not paths:
        parser.error(f'no pictures in {args.folder}')
    number = min(args.number, len(paths))
    pictures = [Image.open(paths[index * len(paths) // number]).convert('RGB') for index in range(number)]
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(pictures, args.columns).save(args.out)
    print(f'{args.out}: {number} of {len(paths)} pictures')


if __name__ == '__main__':
    main()
