"""One picture, several sentences: each mask in its own colour, numbered, with the sentences below."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from .referring_picture import FAINT_COLOR, TEXT_COLOR, overlay_mask
from .text import NOT_IN_PICTURE, NOTHING_FOUND, find_font, wrap_text

# Okabe and Ito's palette without black and yellow (which vanishes on white); told apart with any colour blindness.
EXPRESSION_COLORS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0), (204, 121, 167), (86, 180, 233))


def draw_expressions(
    image: np.ndarray,
    texts: Sequence[str],
    masks: Sequence[np.ndarray],
    scores: Sequence[float] | None = None,
    alpha: float = 0.35,
    min_width: int = 480,
    max_lines: int = 3,
    legend: bool = True,
    no_target: Sequence[bool] | None = None,
) -> np.ndarray:
    """Draw the masks of several sentences over their picture, and the sentences below it.

    Args:
        image: (H, W, 3) RGB, 0..255.
        texts: The sentences.
        masks: (H, W) bool for each sentence.
        scores: 0..1 for each sentence, written behind it in percent. Defaults to None, nothing.
        alpha: Strength of the tint, 0 to 1. Defaults to 0.35: with several colours about, those of the picture count.
        min_width: Narrower pictures are enlarged to it, so that the text is legible. Defaults to 480.
        max_lines: Lines for one sentence; a longer one ends with an ellipsis. Defaults to 3.
        legend: Whether the sentences are written below. Defaults to True.
        no_target: Whether each sentence means nothing in the picture, written behind it. Defaults to None, of a model
            that does not decide it.

    Returns:
        The picture, (H', W', 3) RGB.

    Raises:
        ValueError: If the numbers differ, or a mask does not have the picture's size.
    """
    if len(texts) != len(masks) or (scores is not None and len(scores) != len(texts)):
        raise ValueError(
            f'{len(texts)} sentences, {len(masks)} masks and '
            f'{len(texts) if scores is None else len(scores)} scores do not belong together'
        )
    for mask in masks:
        if mask.shape != image.shape[:2]:
            raise ValueError(f'a mask has size {mask.shape} (H, W), but the image {image.shape[:2]}')
    picture = _enlarge(image, min_width)
    masks = [cv2.resize(mask.astype(np.uint8), picture.shape[1::-1], interpolation=cv2.INTER_NEAREST) for mask in masks]
    # Large masks first, so that small ones inside of them stay on top.
    for index in sorted(range(len(masks)), key=lambda index: -int(masks[index].sum())):
        if masks[index].any():
            picture = overlay_mask(picture, masks[index], color_of(index), alpha)
    canvas = Image.fromarray(picture)
    if len(texts) > 1:
        size = int(np.clip(max(canvas.size) / 32, 15, 64))
        taken: list[tuple[int, int]] = []
        for index, mask in enumerate(masks):
            if mask.any():
                taken.append(_place_of_number(mask, taken, round(0.75 * size)))
                _draw_number(canvas, index, taken[-1], size)
    if not legend:
        return np.asarray(canvas)
    lines = [
        _legend_text(
            text,
            None if scores is None else scores[index],
            bool(masks[index].any()),
            no_target is not None and bool(no_target[index]),
        )
        for index, text in enumerate(texts)
    ]
    notes = ('100 %', NOTHING_FOUND, *(() if no_target is None else (NOT_IN_PICTURE,)))
    return np.asarray(_add_legend(canvas, lines, max_lines, notes))


def draw_labels(image: np.ndarray, classes: Sequence[str], labels: np.ndarray, max_classes: int = 30) -> np.ndarray:
    """Draw a label map as :func:`draw_expressions` draws masks, with the classes that are in it, largest first.

    Args:
        image: (H, W, 3) RGB, 0..255.
        classes: Names of the classes.
        labels: (H, W) their indices; other values are no class.
        max_classes: Classes to draw at most. Defaults to 30.

    Returns:
        The picture, (H', W', 3) RGB.
    """
    sizes = np.bincount(labels.ravel(), minlength=len(classes))[: len(classes)]
    present = [int(index) for index in np.argsort(-sizes, kind='stable') if sizes[index]][:max_classes]
    if not present:
        return draw_expressions(image, ['no class'], [np.zeros(image.shape[:2], bool)])
    shares = sizes[present] / labels.size
    return draw_expressions(
        image,
        [f'{classes[index]} ({100 * share:.0f} % of the image)' for index, share in zip(present, shares)],
        [labels == index for index in present],
    )


def color_of(index: int) -> tuple[int, int, int]:
    """RGB colour of the sentence with this index; after six they begin again, and the numbers tell them apart."""
    return EXPRESSION_COLORS[index % len(EXPRESSION_COLORS)]


def _legend_text(text: str, score: float | None, found: bool, absent: bool) -> tuple[str, str]:
    if not found:
        return text, NOT_IN_PICTURE if absent else NOTHING_FOUND
    return text, '' if score is None else f'{100 * score:.0f} %'


def _enlarge(image: np.ndarray, min_width: int) -> np.ndarray:
    height, width = image.shape[:2]
    # Whole steps keep the edges of a tiny picture's pixels; a tall strip is not blown up without end.
    scale = min(min_width / width, max(1, 4096 / height))
    if scale <= 1:
        return np.ascontiguousarray(image)
    return cv2.resize(
        image, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_CUBIC
    )


def _place_of_number(mask: np.ndarray, taken: Sequence[tuple[int, int]], radius: int) -> tuple[int, int]:
    """(x, y) of a disc with a mask's number: farthest from the mask's border (inside, also of a ring) and off the discs
    that are there; above a mask that it would hide."""
    distance = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    free = distance.copy()
    for x, y in taken:
        cv2.circle(free, (x, y), 2 * radius, 0, -1)
    if not free.any():
        free = distance
    y, x = map(int, np.unravel_index(int(free.argmax()), free.shape))
    if distance.max() < 0.8 * radius:
        y = int(np.flatnonzero(mask.any(1))[0]) - radius - 4
    height, width = mask.shape
    return (
        int(np.clip(x, radius + 2, max(radius + 2, width - radius - 3))),
        int(np.clip(y, radius + 2, max(radius + 2, height - radius - 3))),
    )


def _draw_number(canvas: Image.Image, index: int, point: tuple[int, int], size: int) -> None:
    """A numbered disc in the sentence's colour."""
    (x, y), radius = point, round(0.75 * size)
    draw = ImageDraw.Draw(canvas)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), color_of(index), 'white', max(2, size // 10))
    text = str(index + 1)
    draw.text((x, y), text, 'white', find_font(text, round(size * (0.95 if len(text) == 1 else 0.75))), anchor='mm')


def _add_legend(
    canvas: Image.Image, lines: Sequence[tuple[str, str]], max_lines: int, notes: Sequence[str]
) -> Image.Image:
    """The picture with the sentences below it on white; ``notes`` are those that a line may have."""
    # Letters grow with the picture, so that they stay legible when it is reduced to a page's width.
    size = int(np.clip(canvas.width / 34, 14, 72))
    gap, chip, line_height = round(0.6 * size), round(1.3 * size), round(1.45 * size)
    note_font = find_font('0 %', round(0.85 * size))
    # The widest note has its place whether it is there or not: the frames of a video need one size.
    note_width = round(max(note_font.getlength(note) for note in notes)) + gap
    left = gap + chip + gap
    room = max(canvas.width - left - note_width - gap, 4 * size)
    rows = []
    for text, note in lines:
        font = find_font(text, size)
        rows.append((wrap_text(text, font, room, max_lines), font, note))
    height = 2 * gap + sum(max(len(wrapped), 1) * line_height for wrapped, _, _ in rows)
    width = max(canvas.width, left + room + note_width + gap)
    page = Image.new('RGB', (width, canvas.height + height), 'white')
    page.paste(canvas, ((width - canvas.width) // 2, 0))
    draw, y = ImageDraw.Draw(page), canvas.height + gap
    for index, (wrapped, font, note) in enumerate(rows):
        middle = y + line_height // 2
        box = (gap, middle - chip // 2, gap + chip, middle + chip // 2)
        draw.rounded_rectangle(box, radius=chip // 4, fill=color_of(index))
        if len(rows) > 1:
            number = str(index + 1)
            draw.text(
                ((box[0] + box[2]) / 2, middle),
                number,
                'white',
                find_font(number, round(size * (0.9 if len(number) == 1 else 0.7))),
                anchor='mm',
            )
        for text in wrapped:
            draw.text((left, y + line_height // 2), text, TEXT_COLOR, font, anchor='lm')
            y += line_height
        draw.text((width - gap, middle), note, FAINT_COLOR, note_font, anchor='rm')
    return page


__all__ = ['color_of', 'draw_expressions', 'draw_labels']
