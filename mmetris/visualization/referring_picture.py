"""One picture for one sentence: the image, the predicted mask and the true mask side by side, with the
sentence above.

Masks are (H, W) arrays, images (H, W, 3) RGB in 0..255.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageDraw

from mmetris.utils.text_files import writable

from .text import NOT_IN_PICTURE, find_font, wrap_text

# Blue and orange of Okabe and Ito's palette, which people with any kind of colour blindness tell apart.
PRED_COLOR = (0, 114, 178)
TARGET_COLOR = (230, 159, 0)
IGNORED_COLOR = (128, 128, 128)
TEXT_COLOR = (20, 20, 20)
FAINT_COLOR = (110, 110, 110)


def overlay_mask(image: np.ndarray, mask: np.ndarray, color: tuple[int, int, int], alpha: float = 0.45) -> np.ndarray:
    """Tint an image where a mask is set, with a contour around it.

    Args:
        image: The image.
        mask: Bool, of the image's size.
        color: RGB colour of tint and contour.
        alpha: Strength of the tint, 0 to 1. Defaults to 0.45: the texture below stays visible.

    Returns:
        A new image of the same size.
    """
    mask = mask.astype(np.uint8)
    tinted = image.copy()
    thickness = max(2, round(max(image.shape[:2]) / 220))
    # Nothing changes farther from the mask than the contour is wide, and most masks are small.
    left, top, width, height = cv2.boundingRect(mask)
    rows, columns = (
        slice(max(0, start - thickness - 3), start + side + thickness + 3)
        for start, side in ((top, height), (left, width))
    )
    part = np.ascontiguousarray(tinted[rows, columns])
    mask = np.ascontiguousarray(mask[rows, columns])
    inside = mask == 1
    part[inside] = ((1 - alpha) * part[inside] + alpha * np.array(color)).round().astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    # The white rim sets the contour off from an image of its own colour.
    cv2.drawContours(part, contours, -1, (255, 255, 255), thickness + 2, cv2.LINE_AA)
    tinted[rows, columns] = cv2.drawContours(part, contours, -1, color, thickness, cv2.LINE_AA)
    return tinted


def overlay_frame(image: np.ndarray, box: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Draw the frame of a box, with a white rim as that of a mask's contour.

    Args:
        image: The image.
        box: (4,) left, top, right, bottom in its pixels; right and bottom are exclusive.
        color: RGB colour of the frame.

    Returns:
        A new image of the same size.
    """
    thickness = max(2, round(max(image.shape[:2]) / 220))
    height, width = image.shape[:2]
    left, top, right, bottom = (
        int(np.clip(round(float(edge)), 0, most)) for edge, most in zip(box, (width - 1, height - 1, width, height))
    )
    # At least one pixel; cv2's second corner belongs to the rectangle.
    corners = (left, top), (max(left, right - 1), max(top, bottom - 1))
    framed = np.ascontiguousarray(image.copy())
    cv2.rectangle(framed, *corners, (255, 255, 255), thickness + 2)
    return cv2.rectangle(framed, *corners, color, thickness)


def draw_referring_picture(
    image: np.ndarray,
    expression: str,
    pred_mask: np.ndarray | None = None,
    target_mask: np.ndarray | None = None,
    iou: float | None = None,
    note: str = '',
    alpha: float = 0.45,
    ignore_index: int = 255,
    min_panel: int = 384,
    max_panel: int = 640,
    no_target_score: float | None = None,
    no_target_threshold: float | None = None,
    pred_boxes: np.ndarray | None = None,
    target_boxes: np.ndarray | None = None,
) -> np.ndarray:
    """Draw the image and its masks and boxes side by side, the sentence above and the score below.

    Args:
        image: The image, RGB.
        expression: The sentence, in any script; long ones are wrapped.
        pred_mask: Predicted mask, 0 is background; no panel for it if None. Defaults to None.
        target_mask: True mask, 0 is background; pixels equal to ``ignore_index`` are shown grey. No panel if
            None. Defaults to None.
        iou: Their overlap in [0, 1], shown in percent if given. Defaults to None.
        note: Short text at the lower right, say the image's name. Defaults to none.
        alpha: Strength of the masks' tint, 0 to 1. Defaults to 0.45.
        ignore_index: Value of pixels in ``target_mask`` that are not scored. Defaults to 255.
        min_panel: Smaller images are enlarged until their longer side has so many pixels, so that text beside
            them is legible. Defaults to 384.
        max_panel: Larger images are reduced to this. Defaults to 640.
        no_target_score: Score that the sentence means nothing in the image, 0..1, written beside the overlap with its
            threshold. Defaults to None: the model does not decide it.
        no_target_threshold: Threshold from which on it does. Defaults to None.
        pred_boxes: Predicted boxes (K, 4), left, top, right, bottom in pixels of the image. Defaults to None: the model
            gives none.
        target_boxes: True boxes (K, 4). Defaults to None: the data have none.

    Returns:
        The picture, (H', W', 3) RGB, on white.

    Raises:
        ValueError: If a mask does not have the image's size.
    """
    for name, mask in (('pred_mask', pred_mask), ('target_mask', target_mask)):
        if mask is not None and mask.shape != image.shape[:2]:
            raise ValueError(f'{name} has size {mask.shape} (H, W), but the image {image.shape[:2]}')
    size = image.shape[1::-1]
    image = _resize_to_panel(image, min_panel, max_panel)
    scale = np.tile(np.divide(image.shape[1::-1], size), 2)
    panels: list[tuple[str, tuple[int, int, int] | None, np.ndarray]] = [('image', None, image)]
    for caption, color, mask, boxes in (
        ('prediction', PRED_COLOR, pred_mask, pred_boxes),
        ('ground truth', TARGET_COLOR, target_mask, target_boxes),
    ):
        if mask is None and boxes is None:
            continue
        panel = image
        if mask is not None:
            panel = _with_mask(image, mask, color, alpha, ignore_index if color is TARGET_COLOR else None)
        for box in () if boxes is None else boxes:
            panel = overlay_frame(panel, scale * np.asarray(box), color)
        panels.append((caption, color, panel))

    footer = '' if iou is None else f'IoU {100 * iou:.1f} %'
    found = [bool((pred_mask != 0).any())] if pred_mask is not None else []
    found += [bool(len(pred_boxes))] if pred_boxes is not None else []
    if found and not any(found):
        footer = f'{footer} (nothing predicted)' if footer else 'nothing predicted'
    if no_target_score is not None and no_target_threshold is not None:
        verdict = NOT_IN_PICTURE if no_target_score >= no_target_threshold else 'in the picture'
        numbers = f'no-target score {no_target_score:.2f}, threshold {no_target_threshold:g}'
        footer = f'{footer}  {verdict} ({numbers})'.strip()
    return _compose(panels, f'“{writable(expression)}”', footer, writable(note))


def _with_mask(
    image: np.ndarray, mask: np.ndarray, color: tuple[int, int, int], alpha: float, ignore_index: int | None
) -> np.ndarray:
    mask = _resize_mask(mask, image)
    ignored = np.zeros(mask.shape, bool) if ignore_index is None else mask == ignore_index
    panel = overlay_mask(image, (mask != 0) & ~ignored, color, alpha)
    panel[ignored] = (0.4 * panel[ignored] + 0.6 * np.array(IGNORED_COLOR)).round().astype(np.uint8)
    return panel


def _compose(
    panels: list[tuple[str, tuple[int, int, int] | None, np.ndarray]], title: str, footer: str, note: str
) -> np.ndarray:
    """Title, panels with their captions, and the last line, on white."""
    panel_height, panel_width = panels[0][2].shape[:2]
    gap = 12
    row_width = len(panels) * panel_width + (len(panels) - 1) * gap
    width = max(row_width, 400) + 2 * gap
    # Letters grow with the picture, so that they stay legible when it is reduced to a page's width.
    size = int(np.clip(width / 44, 16, 48))
    small = round(0.75 * size)
    title_font, text_font = find_font(title, size), find_font(footer, small)
    line, small_line = round(1.35 * size), round(1.4 * small)
    lines = wrap_text(title, title_font, width - 2 * gap)

    top = gap + len(lines) * line + gap // 2
    height = top + panel_height + small_line + (small_line if footer or note else 0) + gap
    canvas = Image.new('RGB', (width, height), 'white')
    draw = ImageDraw.Draw(canvas)
    for index, text in enumerate(lines):
        right = title_font.direction == 'rtl'
        title_font.write(
            draw, (width - gap if right else gap, gap + (index + 0.5) * line), text, TEXT_COLOR, 'r' if right else 'l'
        )

    left = (width - row_width) // 2
    for index, (caption, color, panel) in enumerate(panels):
        x = left + index * (panel_width + gap)
        canvas.paste(Image.fromarray(panel), (x, top))
        middle = top + panel_height + 0.55 * small_line
        if color is not None:
            side = round(0.7 * small)
            draw.rectangle((x, middle - side / 2, x + side, middle + side / 2), color)
            x += side + small // 3
        text_font.write(draw, (x, middle), caption, TEXT_COLOR)

    middle = top + panel_height + 1.6 * small_line
    text_font.write(draw, (left, middle), footer, TEXT_COLOR)
    note_font = find_font(note, small)
    room = row_width - text_font.getlength(f'{footer}   ')
    if note and room > note_font.getlength('WWWW'):
        note = wrap_text(note, note_font, int(room), max_lines=1)[0]
        note_font.write(draw, (left + row_width, middle), note, FAINT_COLOR, 'r')
    return np.asarray(canvas)


def _resize_to_panel(image: np.ndarray, min_panel: int, max_panel: int) -> np.ndarray:
    longer = max(image.shape[:2])
    scale = min(max(longer, min_panel), max_panel) / longer
    size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return image.copy() if scale == 1 else cv2.resize(image, size, interpolation=interpolation)


def _resize_mask(mask: np.ndarray, image: np.ndarray) -> np.ndarray:
    # Nearest: the mask's own pixels stay visible where it is enlarged.
    return cv2.resize(mask.astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)


__all__ = ['draw_referring_picture', 'overlay_frame', 'overlay_mask']
