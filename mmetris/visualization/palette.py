"""Colours of the masks in a picture, and what can be read on them."""

from __future__ import annotations

# Okabe and Ito's palette without black and yellow (which vanishes on white), and ten more that were sought for this:
# any two of the sixteen are at least 16 apart in CIE Lab, with ordinary sight and without one of the three cones
# (Machado et al., 2009, severity 1), which is the smallest distance of the six among themselves.
EXPRESSION_COLORS = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (213, 94, 0),
    (204, 121, 167),
    (86, 180, 233),
    (150, 0, 255),
    (120, 0, 60),
    (75, 15, 165),
    (0, 255, 195),
    (105, 15, 105),
    (0, 75, 0),
    (180, 180, 105),
    (150, 120, 255),
    (195, 240, 105),
    (210, 0, 60),
)
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
LEAST_CONTRAST = 3.0  # Of large letters, by WCAG 2.


def color_of(index: int) -> tuple[int, int, int]:
    """RGB colour of the sentence or class with this index, whatever else is in the picture; after sixteen they begin
    again, and the numbers tell them apart.

    Args:
        index: From 0 on.
    """
    return EXPRESSION_COLORS[index % len(EXPRESSION_COLORS)]


def letter_color_on(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """White where it can be read on a colour, else black.

    Args:
        color: RGB, 0..255.
    """
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in (c / 255 for c in color)
    ]
    luminance = sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear))
    return WHITE if 1.05 / (luminance + 0.05) >= LEAST_CONTRAST else BLACK


__all__ = ['EXPRESSION_COLORS', 'color_of', 'letter_color_on']
