"""Many pictures on one sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.utils import mkdir_or_exist
from PIL import Image

from mmetris.utils.image_io import read_image


def make_contact_sheet(
    images: Sequence[str | Path | np.ndarray],
    columns: int = 2,
    out_file: str | Path | None = None,
    cell_width: int | None = 720,
    gap: int = 16,
) -> np.ndarray:
    """Arrange pictures in rows on white.

    Args:
        images: Files, or arrays (H, W, 3) RGB in 0..255.
        columns: Pictures in a row. Defaults to 2, which leaves the text in pictures of three panels legible.
        out_file: Where to write the sheet, as the file's ending says. Defaults to None, nowhere.
        cell_width: Pixels in width for each picture; wider ones are reduced to it. Defaults to 720. None
            keeps all as they are.
        gap: White pixels around each picture. Defaults to 16.

    Returns:
        The sheet, (H', W', 3) RGB.

    Raises:
        ValueError: If there is no picture or ``columns`` is not positive.
        FileNotFoundError: If a file is missing.
    """
    if not images or columns < 1:
        raise ValueError(f'A sheet needs pictures and columns, but got {len(images)} pictures and {columns} columns')
    pictures = [_load(image, cell_width) for image in images]
    columns = min(columns, len(pictures))
    width = max(picture.width for picture in pictures)
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    heights = [max(picture.height for picture in row) for row in rows]
    sheet = Image.new('RGB', (columns * (width + gap) + gap, sum(heights) + (len(rows) + 1) * gap), 'white')
    top = gap
    for row, height in zip(rows, heights):
        for column, picture in enumerate(row):
            sheet.paste(picture, (gap + column * (width + gap), top))
        top += height + gap
    if out_file is not None:
        mkdir_or_exist(str(Path(out_file).parent))
        sheet.save(out_file)
    return np.asarray(sheet)


def _load(image: str | Path | np.ndarray, cell_width: int | None) -> Image.Image:
    picture = Image.fromarray(image if isinstance(image, np.ndarray) else read_image(image)[..., ::-1])
    if cell_width is not None and picture.width > cell_width:
        height = max(1, math.floor(picture.height * cell_width / picture.width))
        picture = picture.resize((cell_width, height), Image.Resampling.LANCZOS)
    return picture


__all__ = ['make_contact_sheet']
