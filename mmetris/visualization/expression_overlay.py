"""One picture, several sentences: the mask and boxes of each in its own colour, numbered, with the sentences below."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from mmetris.structures.found_boxes import HEAD, MASK
from mmetris.utils.text_files import writable

from .number_places import Place, place_numbers
from .palette import EXPRESSION_COLORS, color_of, letter_color_on
from .referring_picture import FAINT_COLOR, TEXT_COLOR, overlay_frame, overlay_mask
from .text import NOT_IN_PICTURE, NOTHING_FOUND, find_font, percent, wrap_text

# Of the sentences below a picture, from which number on they stand in columns where they are short, and how many.
MANY_ROWS, MOST_COLUMNS = 7, 3


def draw_expressions(
    image: np.ndarray,
    texts: Sequence[str],
    masks: Sequence[np.ndarray] | None,
    scores: Sequence[float] | None = None,
    alpha: float = 0.35,
    min_width: int = 480,
    max_lines: int = 3,
    legend: bool = True,
    no_target: Sequence[bool] | None = None,
    numbers: Sequence[int] | None = None,
    max_listed: int = 40,
    pred_boxes: Sequence[np.ndarray] | None = None,
    pred_box_scores: Sequence[np.ndarray] | None = None,
    box_source: Sequence[str] | None = None,
) -> np.ndarray:
    """Draw the masks and boxes of several sentences over their picture, and the sentences below it.

    Args:
        image: (H, W, 3) RGB, 0..255.
        texts: The sentences.
        masks: (H, W) bool for each sentence. None: boxes alone.
        scores: 0..1 for each sentence, written behind it in percent. Defaults to None, nothing.
        alpha: Strength of the tint, 0 to 1. Defaults to 0.35: with several colours about, those of the picture count.
        min_width: Narrower pictures are enlarged to it, so that the text is legible. Defaults to 480.
        max_lines: Lines for one sentence; a longer one ends with an ellipsis. Defaults to 3.
        legend: Whether the sentences are written below. Defaults to True.
        no_target: Whether each sentence means nothing in the picture, written behind it. Defaults to None, of a model
            that does not decide it.
        numbers: Each sentence's index, from 0 on, which says its colour and its number. Defaults to None: by their
            order, so that both stay with a sentence whatever the masks of others are.
        max_listed: Sentences that are written below at most; the others are counted. Defaults to 40.
        pred_boxes: (K, 4) left, top, right, bottom in pixels for each sentence, drawn as frames. Defaults to None:
            none.
        pred_box_scores: (K,) 0..1, the highest first, which is written behind a sentence in percent. Defaults to None,
            nothing.
        box_source: ``'mask'`` for each sentence whose box is the one around its mask, so that its score is not written
            twice. Defaults to None: all are predicted ones.

    Returns:
        The picture, (H', W', 3) RGB.

    Raises:
        ValueError: If the numbers differ, a mask does not have the picture's size, or there are neither masks nor
            boxes.
    """
    if masks is None and pred_boxes is None:
        raise ValueError('there is nothing to draw: give masks, pred_boxes or both')
    if pred_boxes is not None and len(pred_boxes) != len(texts):
        raise ValueError(f'{len(texts)} sentences and boxes of {len(pred_boxes)} do not belong together')
    has_masks = masks is not None
    masks = [np.zeros(image.shape[:2], bool)] * len(texts) if masks is None else masks
    if len(texts) != len(masks) or (scores is not None and len(scores) != len(texts)):
        raise ValueError(
            f'{len(texts)} sentences, {len(masks)} masks and '
            f'{len(texts) if scores is None else len(scores)} scores do not belong together'
        )
    for mask in masks:
        if mask.shape != image.shape[:2]:
            raise ValueError(f'a mask has size {mask.shape} (H, W), but the image {image.shape[:2]}')
    numbers = range(len(texts)) if numbers is None else numbers
    canvas = _draw_masks(image, masks, numbers, alpha, min_width, boxes=pred_boxes)
    if not legend:
        return np.asarray(canvas)
    rows = []
    for index, (number, text) in enumerate(zip(numbers, texts, strict=True)):
        absent = no_target is not None and bool(no_target[index])
        note = ''
        if has_masks:
            note = _note_of(None if scores is None else scores[index], bool(masks[index].any()), absent)
        if pred_boxes is not None and (box_source is None or box_source[index] != MASK):
            found = [] if pred_box_scores is None else [float(score) for score in pred_box_scores[index]]
            of_boxes = _note_of_boxes(found, len(pred_boxes[index]), has_masks)
            # What both say is said once.
            note = of_boxes if note in ('', NOTHING_FOUND) else f'{note}, {of_boxes}' if of_boxes else note
            note = (NOT_IN_PICTURE if absent else NOTHING_FOUND) if note == '' else note
        rows.append((number, writable(text), note))
    notes = ['100 %', NOTHING_FOUND, *(() if no_target is None else (NOT_IN_PICTURE,))]
    if pred_boxes is not None and (box_source is None or HEAD in box_source):
        notes.append(', '.join(['100 %'] * has_masks + [_note_of_boxes([1.0], 99, has_masks)]))
    closing = f'and {len(rows) - max_listed} more' if len(rows) > max_listed else ''
    return np.asarray(_add_legend(canvas, rows[:max_listed], max_lines, notes, closing))


def draw_labels(image: np.ndarray, classes: Sequence[str], labels: np.ndarray, max_classes: int = 30) -> np.ndarray:
    """Draw a label map as :func:`draw_expressions` draws masks, with the classes that are in it, largest first.

    Colour and number of a class are those of its place among ``classes``: they stay when its share changes.

    Args:
        image: (H, W, 3) RGB, 0..255.
        classes: Names of the classes.
        labels: (H, W) their indices; other values are no class.
        max_classes: Classes to draw at most; the others are counted below. Defaults to 30.

    Returns:
        The picture, (H', W', 3) RGB.
    """
    sizes = np.bincount(labels.ravel(), minlength=len(classes))[: len(classes)]
    present = [int(index) for index in np.argsort(-sizes, kind='stable') if sizes[index]]
    if not present:
        return draw_expressions(image, ['no class'], [np.zeros(image.shape[:2], bool)])
    drawn, left_out = present[:max_classes], present[max_classes:]
    canvas = _draw_masks(image, [labels == index for index in drawn], drawn, numbered=len(classes) > 1)
    notes = [f'{percent(sizes[index] / labels.size)} of the image' for index in present]
    rows = [(index, writable(classes[index]), note) for index, note in zip(drawn, notes)]
    share = percent(sizes[left_out].sum() / labels.size)
    closing = f'and {len(left_out)} more, {share} of the image' if left_out else ''
    return np.asarray(_add_legend(canvas, rows, 3, ('100 % of the image',), closing, numbered=len(classes) > 1))


def _draw_masks(
    image: np.ndarray,
    masks: Sequence[np.ndarray],
    numbers: Sequence[int],
    alpha: float = 0.35,
    min_width: int = 480,
    numbered: bool | None = None,
    boxes: Sequence[np.ndarray] | None = None,
) -> Image.Image:
    """The picture with its masks and frames, and their numbers if there is more than one sentence."""
    picture = _enlarge(image, min_width)
    masks = [cv2.resize(mask.astype(np.uint8), picture.shape[1::-1], interpolation=cv2.INTER_NEAREST) for mask in masks]
    # Large masks first, so that small ones inside of them stay on top.
    for index in sorted(range(len(masks)), key=lambda index: -int(masks[index].sum())):
        if masks[index].any():
            picture = overlay_mask(picture, masks[index], color_of(numbers[index]), alpha)
    scale = np.tile(np.divide(picture.shape[1::-1], image.shape[1::-1]), 2)
    frames = [(index, frame) for index, one in enumerate(boxes or ()) for frame in np.asarray(one) * scale]
    # As for masks: the smallest last.
    for index, frame in sorted(frames, key=lambda one: -float(np.prod(one[1][2:] - one[1][:2]))):
        picture = overlay_frame(picture, frame, color_of(numbers[index]))
    canvas = Image.fromarray(picture)
    if len(masks) > 1 if numbered is None else numbered:
        size = int(np.clip(max(canvas.size) / 32, 15, 64))
        radius = round(0.75 * size)
        labels = list(zip(numbers, masks))
        # A frame has the number of its sentence where no mask has: in its corner, which hides least of the object.
        bare = [(numbers[index], frame) for index, frame in frames if not masks[index].any()]
        labels += [(number, _corner_of(frame, picture.shape[:2], radius)) for number, frame in bare]
        places = place_numbers([mask for _, mask in labels], radius)
        draw = ImageDraw.Draw(canvas)
        found = [(number, place) for (number, _), place in zip(labels, places) if place is not None]
        for number, place in found:
            _draw_pointer(draw, number, place)
        for number, place in found:
            _draw_number(draw, number, place)
    return canvas


def _note_of(score: float | None, found: bool, absent: bool) -> str:
    if not found:
        return NOT_IN_PICTURE if absent else NOTHING_FOUND
    return '' if score is None else percent(score)


def _note_of_boxes(scores: Sequence[float], count: int, has_masks: bool) -> str:
    """``'box 91 %'``, beside masks, and the best score of several boxes."""
    if not count:
        return ''
    words = f'{count} boxes' if count > 1 else 'box' if has_masks or not scores else ''
    return ' '.join(filter(None, (words, percent(scores[0]) if scores else '')))


def _corner_of(frame: np.ndarray, image_hw: tuple[int, ...], radius: int) -> np.ndarray:
    """A mask (H, W) of the upper left corner of a frame, as large as the disc with its number."""
    corner = np.zeros(image_hw[:2], np.uint8)
    left, top = (int(np.clip(edge, 0, side - 1)) for edge, side in zip(frame[:2], (image_hw[1], image_hw[0])))
    right, bottom = (
        max(start + 1, min(start + 2 * radius + 3, int(end))) for start, end in zip((left, top), frame[2:])
    )
    corner[top:bottom, left:right] = 1
    return corner


def _enlarge(image: np.ndarray, min_width: int) -> np.ndarray:
    height, width = image.shape[:2]
    # Whole steps keep the edges of a tiny picture's pixels; a tall strip is not blown up without end.
    scale = min(min_width / width, max(1, 4096 / height))
    if scale <= 1:
        return np.ascontiguousarray(image)
    return cv2.resize(
        image, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_CUBIC
    )


def _draw_pointer(draw: ImageDraw.ImageDraw, number: int, place: Place) -> None:
    """A line to the mask, of a disc that does not reach it."""
    x, y, radius, anchor = place
    if np.hypot(anchor[0] - x, anchor[1] - y) <= radius:
        return
    width = max(2, radius // 5)
    for color, wider in (('white', 2), (color_of(number), 0)):
        draw.line((x, y, *anchor), color, width + wider)
        end = width + wider
        draw.ellipse((anchor[0] - end, anchor[1] - end, anchor[0] + end, anchor[1] + end), color)


def _draw_number(draw: ImageDraw.ImageDraw, number: int, place: Place) -> None:
    """A numbered disc in the sentence's colour."""
    x, y, radius, _ = place
    color, text = color_of(number), str(number + 1)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), color, 'white', max(2, radius // 8))
    font = find_font(text, max(6, round(radius * (1.25, 1.0, 0.75)[min(len(text), 3) - 1])))
    font.write(draw, (x, y), text, letter_color_on(color), 'm')


def _add_legend(
    canvas: Image.Image,
    rows: Sequence[tuple[int, str, str]],
    max_lines: int,
    notes: Sequence[str],
    closing: str = '',
    numbered: bool | None = None,
) -> Image.Image:
    """The picture with the sentences below it on white, many short ones in columns.

    Args:
        canvas: The picture.
        rows: Number, text and note of each sentence.
        max_lines: Lines for one sentence.
        notes: Those that a row may have: the widest has its place whether it is there or not, since the frames of a
            video need one size.
        closing: A line below all. Defaults to none.
        numbered: Whether the numbers are written. Defaults to None: if there are several rows.
    """
    # Letters grow with the picture, so that they stay legible when it is reduced to a page's width.
    size = int(np.clip(canvas.width / 34, 14, 72))
    gap, chip, line_height = round(0.6 * size), round(1.3 * size), round(1.45 * size)
    note_font = find_font('0 %', round(0.85 * size))
    beside = gap + chip + gap + round(max(note_font.getlength(note) for note in notes)) + gap
    fonts = [find_font(text, size) for _, text, _ in rows]
    longest = max(font.getlength(' '.join(text.split())) for font, (_, text, _) in zip(fonts, rows))
    columns = min(MOST_COLUMNS, int((canvas.width - gap) // (beside + longest))) if len(rows) >= MANY_ROWS else 1
    columns = max(1, columns)
    room = max((canvas.width - gap) // columns - beside, 4 * size)
    wrapped = [wrap_text(text, font, room, max_lines) for font, (_, text, _) in zip(fonts, rows)]
    per_column = -(-len(rows) // columns)
    heights = [sum(map(len, wrapped[start : start + per_column])) for start in range(0, len(rows), per_column)]
    width = max(canvas.width, columns * (room + beside) + gap)
    height = 2 * gap + (max(heights) + bool(closing)) * line_height
    page = Image.new('RGB', (width, canvas.height + height), 'white')
    page.paste(canvas, ((width - canvas.width) // 2, 0))
    draw = ImageDraw.Draw(page)
    for start in range(0, len(rows), per_column):
        left, y = gap + start // per_column * (room + beside), canvas.height + gap
        for index in range(start, min(start + per_column, len(rows))):
            number, _, note = rows[index]
            middle, font = y + line_height // 2, fonts[index]
            box = (left, middle - chip // 2, left + chip, middle + chip // 2)
            draw.rounded_rectangle(box, radius=chip // 4, fill=color_of(number))
            if len(rows) > 1 if numbered is None else numbered:
                digits = str(number + 1)
                small = find_font(digits, round(size * (0.9, 0.7, 0.55)[min(len(digits), 3) - 1]))
                small.write(draw, ((box[0] + box[2]) / 2, middle), digits, letter_color_on(color_of(number)), 'm')
            block = max(map(font.getlength, wrapped[index]))
            for line in wrapped[index]:
                # Lines that are read from the right end below each other there.
                if font.direction == 'rtl':
                    font.write(draw, (left + chip + gap + block, y + line_height // 2), line, TEXT_COLOR, 'r')
                else:
                    font.write(draw, (left + chip + gap, y + line_height // 2), line, TEXT_COLOR)
                y += line_height
            note_font.write(draw, (left + room + beside - gap, middle), note, FAINT_COLOR, 'r')
    if closing:
        y = canvas.height + height - gap - line_height // 2
        note_font.write(draw, (gap + chip + gap, y), closing, FAINT_COLOR)
    return page


__all__ = ['EXPRESSION_COLORS', 'color_of', 'draw_expressions', 'draw_labels']
