"""Text in pictures: in any script that a font here has, and lines that fit.

Matplotlib's DejaVu Sans, which is always there, has Latin, Greek, Cyrillic, Hebrew, Arabic and many signs. What it has
not is looked for in the font packages of ``mmetris[fonts]`` (Noto: Chinese, Japanese, Korean, emoji and many scripts
more) and then in the fonts of this machine. Letters that no font has are boxes, and a warning says so.

Arabic and Hebrew need more than letters: they are joined and stand from right to left. Pillow does so by Raqm, which
needs the system's FriBiDi; without it arabic-reshaper and python-bidi do, which ``mmetris[fonts]`` brings.
"""

from __future__ import annotations

import functools
import importlib.util
import os.path as osp
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, groupby
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.ft2font import FT2Font
from PIL import ImageDraw, ImageFont, features

# What is written beside a sentence that has no mask.
NOTHING_FOUND, NOT_IN_PICTURE = 'nothing found', 'not in the picture'
FONT_PACKAGES = ('manimgx_fonts', 'noto_cjk_sans_otc')
DEJAVU = osp.join(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf')
FIRST_EMOJI = 0x1F000  # Older ones are signs that DejaVu Sans draws as well.
# What the letters of a direction are called by Unicode's bidirectional algorithm; others follow their neighbours.
_DIRECTIONS = dict(L='ltr', R='rtl', AL='rtl')
_NUMBERS = ('EN', 'AN')
# Fonts of one collection for the same signs as Japanese, Korean and Chinese write them: the order of Noto Sans CJK.
_JAPANESE, _KOREAN, _CHINESE = 0, 1, 2


def percent(share: float) -> str:
    """A share, 0..1, in percent: whole ones, and below one percent with a digit.

    >>> percent(0.123), percent(0.004), percent(0.0001), percent(0)
    ('12 %', '0.4 %', '< 0.1 %', '0 %')
    """
    value = 100 * share
    if value <= 0 or value >= 0.95:
        return f'{value:.0f} %'
    return f'{value:.1f} %' if value >= 0.05 else '< 0.1 %'


class _Run(NamedTuple):
    """Letters next to each other that one font draws, in one direction."""

    text: str
    font: ImageFont.FreeTypeFont
    direction: str


class PictureFont:
    """Letters of one height for one text and its parts; see :func:`find_font`.

    Args:
        size: Height of the letters in pixels.
        files: The font's file and its number therein for each letter; of others DejaVu Sans is taken.
        direction: In which direction the whole text is read, ``'ltr'`` or ``'rtl'``.
    """

    def __init__(self, size: int, files: Mapping[str, tuple[str, int]], direction: str = 'ltr') -> None:
        self.size, self.direction, self._files = size, direction, files
        self._main = _load_font(DEJAVU, 0, size)

    def getlength(self, text: str) -> float:
        """Pixels that a text takes in width."""
        return sum(_length(run) for run in self._runs(text))

    def write(
        self,
        draw: ImageDraw.ImageDraw,
        point: tuple[float, float],
        text: str,
        fill: tuple[int, int, int],
        anchor: str = 'l',
    ) -> None:
        """Write one line, its middle at the point's height.

        Args:
            draw: Where to.
            point: (x, y).
            text: The line.
            fill: RGB colour.
            anchor: What is at x: the text's left end (``'l'``), middle (``'m'``) or right end (``'r'``).
        """
        runs = self._runs(text)
        ascent, descent = self._main.getmetrics()
        x = point[0] - dict(l=0.0, m=0.5, r=1.0)[anchor] * sum(map(_length, runs))
        for run in runs:
            # Fonts differ in their middle, not in their baseline.
            place = x, point[1] + (ascent - descent) / 2
            draw.text(place, _shaped(run), fill, run.font, anchor='ls', direction=_given(run.direction))
            x += _length(run)

    def _runs(self, text: str) -> list[_Run]:
        """The text's runs from left to right as they are seen."""
        pieces: list[list[_Run]] = []
        for direction, part in _directed(text, self.direction):
            runs = [_Run(letters, _load_font(*file, self.size), direction) for file, letters in self._by_font(part)]
            pieces.append(runs[:: -1 if direction == 'rtl' else 1])
        return [run for piece in pieces[:: -1 if self.direction == 'rtl' else 1] for run in piece]

    def _by_font(self, text: str) -> Iterator[tuple[tuple[str, int], str]]:
        files: list[tuple[str, int]] = []
        for letter in text:
            file = self._files.get(letter, (DEJAVU, 0))
            # Accents and joiners belong to what they follow; a space of an emoji's width would be a gap.
            files.append(files[-1] if files and not (_is_letter(letter) or letter.isspace()) else file)
        for file, pairs in groupby(zip(files, text), key=lambda pair: pair[0]):
            yield file, ''.join(letter for _, letter in pairs)


def find_font(text: str, size: int) -> PictureFont:
    """Letters for a text in any script: each by the first font that has it, one font for all if that is possible.

    What cannot be drawn as it should be has a warning, once.

    Args:
        text: What shall be written.
        size: Height of the letters in pixels.
    """
    letters = frozenset(letter for letter in text if _is_letter(letter))
    files = _files_of(letters)
    if missing := ''.join(sorted(letters - files.keys())):
        installed = '' if _package_fonts() else ', or pip install "mmetris[fonts]", which brings Noto\'s'
        _warn_once(
            f'no font here has {missing[:20]}: boxes stand for it in pictures; install a font with it{installed}'
        )
    direction = next((_DIRECTIONS[kind] for kind in map(unicodedata.bidirectional, text) if kind in _DIRECTIONS), 'ltr')
    if not _has_raqm():
        _warn_of_joining(text)
    number = _number_in_collection(letters)
    numbers = {path: number if path.endswith('.ttc') and path in _package_fonts() else 0 for path in files.values()}
    drawn_by = {letter: (path, numbers[path]) for letter, path in files.items()}
    if len(numbers) == 1:  # Words that one font draws are one run, which it can shape as a whole.
        drawn_by[' '] = next(iter(drawn_by.values()))
    return PictureFont(size, drawn_by, direction)


def _number_in_collection(letters: Iterable[str]) -> int:
    """Which of the fonts of Noto Sans CJK is the one of the text's language."""
    scripts = {unicodedata.name(letter, '').split(' ')[0] for letter in letters}
    if scripts & {'HIRAGANA', 'KATAKANA'}:
        return _JAPANESE
    return _KOREAN if 'HANGUL' in scripts else _CHINESE


def _is_letter(sign: str) -> bool:
    """Whether a font must have it: no space, no accent, nothing that is not seen (Cf, Cc), no half of a pair (Cs)."""
    return unicodedata.category(sign)[0] not in 'ZMC'


@functools.lru_cache(maxsize=64)
def _load_font(path: str, number: int, size: int) -> ImageFont.FreeTypeFont:
    engine = ImageFont.Layout.RAQM if _has_raqm() else ImageFont.Layout.BASIC
    return ImageFont.truetype(path, size, index=number, layout_engine=engine)


@functools.lru_cache(maxsize=32)
def _letters_of(path: str) -> frozenset[int]:
    return frozenset(FT2Font(path).get_charmap())


@functools.lru_cache(maxsize=1)
def _package_fonts() -> tuple[str, ...]:
    """Upright fonts of the packages that are installed."""
    found: list[Path] = []
    for name in FONT_PACKAGES:
        spec = importlib.util.find_spec(name)
        for folder in (spec and spec.submodule_search_locations) or ():
            found.extend(sorted(path for path in Path(folder).glob('*.tt[fc]') if 'Italic' not in path.name))
    return tuple(map(str, found))


def _machine_fonts() -> Iterator[str]:
    """Upright fonts of ordinary weight first; the name makes the choice the same each time."""
    from matplotlib.font_manager import fontManager  # lists the machine's fonts, which can take seconds

    for font in sorted(fontManager.ttflist, key=lambda font: (font.style != 'normal', font.weight != 400, font.name)):
        if 'last resort' not in font.name.lower():  # has a box with its script's name for every letter there is
            yield font.fname


@functools.lru_cache(maxsize=256)
def _files_of(letters: frozenset[str]) -> dict[str, str]:
    """The file that draws each letter; a letter that no font has is not in it."""
    own = (DEJAVU, *_package_fonts())
    emoji = frozenset(letter for letter in letters if ord(letter) >= FIRST_EMOJI)
    found: dict[str, str] = {}
    for wanted, fonts in (
        (letters - emoji, own),
        # Pictures that belong together, of which DejaVu Sans has some.
        (emoji, sorted(own, key=lambda path: 'emoji' not in osp.basename(path).lower())),
    ):
        codes = frozenset(map(ord, wanted))
        whole = next((path for path in fonts if codes <= _letters_of(path)), None)
        for path in (whole,) if whole is not None else chain(fonts, _machine_fonts()):
            try:
                have = {letter for letter in wanted - found.keys() if ord(letter) in _letters_of(path)}
                if have:
                    ImageFont.truetype(path, 16)
            except (OSError, RuntimeError):  # in Matplotlib's list, but gone, or of another kind than Pillow draws
                continue
            found.update(dict.fromkeys(have, path))
            if wanted <= found.keys():
                break
    return found


@functools.lru_cache(maxsize=1)
def _has_raqm() -> bool:
    return bool(features.check('raqm'))


@functools.lru_cache(maxsize=1)
def _can_reorder() -> bool:
    """Whether the packages are there that do for Arabic and Hebrew what Raqm does."""
    return all(importlib.util.find_spec(name) is not None for name in ('arabic_reshaper', 'bidi'))


def _given(direction: str) -> str | None:
    return direction if _has_raqm() else None  # Pillow refuses it without Raqm.


def _shaped(run: _Run) -> str:
    """What Pillow is given: the letters as they are for Raqm, else as they are seen, one beside the other."""
    if _has_raqm():
        return run.text
    text = ''.join(sign for sign in run.text if unicodedata.category(sign) != 'Cf' and not '\ufe00' <= sign <= '\ufe0f')
    if run.direction == 'ltr' or not _can_reorder():
        return text
    import arabic_reshaper
    import bidi

    return str(bidi.get_display(arabic_reshaper.reshape(text), base_dir='R'))


def _length(run: _Run) -> float:
    return run.font.getlength(_shaped(run), direction=_given(run.direction))


def _directed(text: str, base: str) -> list[tuple[str, str]]:
    """Parts of a text that are read in one direction, in the order of reading: (direction, part).

    Unicode's bidirectional algorithm as far as whole parts go: what has no direction of its own takes that of its
    neighbours if they agree, else that of the text. Numbers stay with the word they follow.
    """
    kinds: list[str | None] = []
    before: list[str] = []
    last = base
    for name in map(unicodedata.bidirectional, text):
        last = _DIRECTIONS.get(name, last)
        before.append(last)
        kinds.append(last if name in _DIRECTIONS or name in _NUMBERS else None)
    if 'rtl' not in before:
        return [('ltr', text)] if text else []
    directions, following = [], base
    for kind, earlier in zip(kinds[::-1], before[::-1]):
        following = kind or following
        directions.append(earlier if earlier == following else base)
    grouped = groupby(zip(directions[::-1], text), key=lambda pair: pair[0])
    return [(direction, ''.join(letter for _, letter in pairs)) for direction, pairs in grouped]


def _warn_of_joining(text: str) -> None:
    """Warn where letters have to be joined or turned round, and nothing here does it."""
    is_indic = any('\u0900' <= letter <= '\u0dff' or '\u1000' <= letter <= '\u109f' for letter in text)
    is_rtl = any(_DIRECTIONS.get(unicodedata.bidirectional(letter)) == 'rtl' for letter in text)
    if is_indic or (is_rtl and not _can_reorder()):
        package = '' if _can_reorder() else '; pip install "mmetris[fonts]" does it for Arabic and Hebrew'
        _warn_once(
            f'Pillow has no Raqm here, and the letters of “{text[:40]}” are drawn one by one, neither joined nor in '
            f'their order: install FriBiDi (Debian: libfribidi0){package}'
        )


@functools.lru_cache(maxsize=1024)
def _warn_once(message: str) -> None:
    """A video would repeat it for each frame."""
    warnings.warn(message, stacklevel=2)


def wrap_text(text: str, font: PictureFont, width: int, max_lines: int = 6) -> list[str]:
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


__all__ = ['PictureFont', 'find_font', 'percent', 'wrap_text']
