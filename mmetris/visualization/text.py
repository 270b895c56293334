"""Text in pictures: a font that has the letters, and lines that fit."""

from __future__ import annotations

import functools
import os.path as osp

import matplotlib
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

# What is written beside a sentence that has no mask.
NOTHING_FOUND, NOT_IN_PICTURE = 'nothing found', 'not in the picture'


@functools.lru_cache(maxsize=32)
def _letters_of(path: str) -> frozenset[int]:
    return frozenset(FT2Font(path).get_charmap())


def find_font(text: str, size: int) -> ImageFont.FreeTypeFont:
    """A font that has every letter of a text.

    Matplotlib's own DejaVu Sans covers Latin, Greek, Cyrillic, Arabic and many signs, and is always there.
    For other scripts (Chinese, Japanese, Korean...) the fonts installed on the machine are searched.

    Args:
        text: What shall be written.
        size: Height of the letters in pixels.

    Returns:
        The font; DejaVu Sans, which shows boxes, if no font has all the letters.
    """
    path = _font_path(frozenset(ord(letter) for letter in text if not letter.isspace()))
    return ImageFont.truetype(path, size)


@functools.lru_cache(maxsize=256)
def _font_path(letters: frozenset[int]) -> str:
    bundled = osp.join(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf')
    if letters <= _letters_of(bundled):
        return bundled
    from matplotlib.font_manager import fontManager  # lists the machine's fonts, which can take seconds

    # Upright fonts of ordinary weight first; the name makes the choice the same each time.
    for font in sorted(fontManager.ttflist, key=lambda font: (font.style != 'normal', font.weight != 400, font.name)):
        if 'last resort' in font.name.lower():
            continue  # has a box with its script's name for every letter there is
        try:
            if letters <= _letters_of(font.fname):
                return font.fname
        except (OSError, RuntimeError):  # listed in Matplotlib's cache, but gone or no longer readable
            continue
    return bundled


def wrap_text(text: str, font: ImageFont.FreeTypeFont, width: int, max_lines: int = 6) -> list[str]:
    """Break a text into lines that fit a width, between words where there are any, else between letters.

    Args:
        text: Any text; white space counts as one space.
        font: Font the lines will be written in.
        width: Pixels a line may take.
        max_lines: Lines to keep; a longer text ends with an ellipsis. Defaults to 6.

    Returns:
        At least one line.

    Raises:
        ValueError: If not even one letter fits.
    """
    if font.getlength('W') > width:
        raise ValueError(f'No letter fits into {width} pixels')
    lines = ['']
    for word in text.split():
        candidate = f'{lines[-1]} {word}'.lstrip()
        if font.getlength(candidate) <= width:
            lines[-1] = candidate
            continue
        if lines[-1]:
            lines.append('')
        # A word wider than a line, or a sentence without spaces.
        for letter in word:
            if font.getlength(lines[-1] + letter) > width:
                lines.append('')
            lines[-1] += letter
    if len(lines) > max_lines:
        last = lines[max_lines - 1]
        while font.getlength(f'{last}…') > width:
            last = last[:-1]
        lines = [*lines[: max_lines - 1], f'{last}…']
    return lines


__all__ = ['find_font', 'wrap_text']
