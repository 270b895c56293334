"""Where the numbers of several masks stand: each on its own mask, none over another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from mmetris.utils.shapes import bounds_of

# Of a disc's full radius: a smaller one hides less of a small mask, and its number can still be read.
LEAST_RADIUS = 0.65
GAP = 2  # pixels between discs, and to the picture's edge
NEARLY = 0.95  # of the greatest depth: a point that is as good
LONGEST_SIDE = 1024  # Larger masks are looked at in blocks of pixels, which takes a fraction of the time.


class Place(NamedTuple):
    """A disc with a number.

    Attributes:
        x: Column of its centre.
        y: Row of its centre.
        radius: In pixels.
        anchor: (x, y) of the mask's pixel that the number belongs to: the centre, or another where the mask has no room
            that the discs of others leave, or none that is far enough from the picture's edge.
    """

    x: int
    y: int
    radius: int
    anchor: tuple[int, int]


def place_numbers(masks: Sequence[np.ndarray], radius: int) -> list[Place | None]:
    """Find a place for the number of each mask.

    It is the point of the mask's largest fragment that is farthest from its border, inside also of a ring; of that part
    which no smaller mask covers, if there is room in it. Where other numbers are in the way it is the next best point
    of the mask, and where they cover all of it the nearest free point of the picture. Small masks, which have the least
    choice, come first.

    Args:
        masks: (H, W) uint8, 0 and 1, of one size; each is drawn over those that are larger.
        radius: Of a disc, in pixels. In narrow masks it is up to a third smaller.

    Returns:
        A place for each mask, None for an empty one. No two overlap, unless the picture has no room for all.
    """
    if not masks:
        return []
    block = math.ceil(max(masks[0].shape) / LONGEST_SIDE)
    places = _place_all([_reduced(mask, block) for mask in masks], math.ceil(radius / block))
    return [None if place is None else _at_full_size(place, mask, block, radius) for place, mask in zip(places, masks)]


def _reduced(mask: np.ndarray, block: int) -> np.ndarray:
    """A mask of blocks, each set if one of its pixels is."""
    if block == 1:
        return mask
    # A pixel's value becomes the largest of the block that begins there.
    return np.ascontiguousarray(cv2.dilate(mask, np.ones((block, block), np.uint8), anchor=(0, 0))[::block, ::block])


def _at_full_size(place: Place, mask: np.ndarray, block: int, radius: int) -> Place:
    """A place among blocks as one of pixels; on the mask where the block is."""
    if block == 1:
        return place
    top, left = place.anchor[1] * block, place.anchor[0] * block
    rows, columns = np.nonzero(mask[top : top + block, left : left + block])
    middle = int(((rows - block / 2) ** 2 + (columns - block / 2) ** 2).argmin())
    anchor = left + int(columns[middle]), top + int(rows[middle])
    x, y = anchor if place.anchor == place[:2] else (place.x * block, place.y * block)
    return Place(x, y, min(radius, place.radius * block), anchor)


def _place_all(masks: Sequence[np.ndarray], radius: int) -> list[Place | None]:
    places: list[Place | None] = [None] * len(masks)
    least = max(1, round(LEAST_RADIUS * radius))
    sizes = [int(np.count_nonzero(mask)) for mask in masks]
    # Of equal ones the last is drawn on top.
    smallest_first = sorted((index for index in range(len(masks)) if sizes[index]), key=lambda i: (sizes[i], -i))
    covered = np.zeros_like(masks[0])  # by smaller masks
    for index in smallest_first:
        mask, taken = masks[index], [place for place in places if place is not None]
        candidates = [mask & ~covered, mask] if covered.any() else [mask]
        found = [place for each in candidates if (place := _place_in(each, taken, radius, least)) is not None]
        roomy = [place for place in found if place.radius > least]
        places[index] = (roomy or found or [_place_beside(mask, taken, least)])[0]
        covered |= mask
    return places


def _place_in(mask: np.ndarray, taken: Sequence[Place], radius: int, least: int) -> Place | None:
    """The best point of a mask for a disc that touches no other and is inside the picture; None if there is none."""
    left, top, right, bottom = bounds_of(mask)
    if bottom <= top:
        return None
    # One pixel more on each side: what is outside of the picture is outside of the mask, too.
    part = np.pad(mask[top:bottom, left:right], 1)
    for fragment in _fragments(part):
        depth = cv2.distanceTransform(fragment, cv2.DIST_L2, 3)[1:-1, 1:-1]
        free = _free_for(mask.shape, taken, least, (top, left, bottom, right))
        depth = np.where(free, depth, 0)
        if depth.any():
            # Of a long shape, whose points are equally deep all along, the middle.
            rows, columns = np.nonzero(depth >= NEARLY * depth.max())
            nearest = int(((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2).argmin())
            y, x = int(rows[nearest]), int(columns[nearest])
            return _grown(x + left, y + top, float(depth[y, x]), mask.shape, taken, radius, least)
    return None


def _fragments(mask: np.ndarray, most: int = 8) -> list[np.ndarray]:
    """The connected parts of a mask, largest first; those behind the first few together."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    order = 1 + np.argsort(-stats[1:count, cv2.CC_STAT_AREA], kind='stable')
    single = [(labels == label).astype(np.uint8) for label in order[:most]]
    return single if count - 1 <= most else [*single, np.isin(labels, order[most:]).astype(np.uint8)]


def _grown(
    x: int, y: int, depth: float, shape: tuple[int, ...], taken: Sequence[Place], radius: int, least: int
) -> Place:
    """A disc as large as the mask, the discs beside it and the picture's edge allow."""
    edge = min(x, y, shape[1] - 1 - x, shape[0] - 1 - y) - GAP
    beside = [int(np.hypot(x - other.x, y - other.y)) - other.radius - GAP for other in taken]
    return Place(x, y, max(least, min(radius, round(1.25 * depth), edge, *beside)), (x, y))


def _free_for(
    shape: tuple[int, ...], taken: Sequence[Place], radius: int, window: tuple[int, int, int, int]
) -> np.ndarray:
    """Where in a window (top, left, bottom, right) a disc of this radius touches neither another nor an edge."""
    top, left, bottom, right = window
    margin = radius + GAP
    # In a picture with no room for a disc its middle is free.
    rows, columns = (
        (np.arange(side) >= min(margin, side // 2)) & (np.arange(side) <= max(side - 1 - margin, side // 2))
        for side in shape[:2]
    )
    free = (rows[top:bottom, None] & columns[None, left:right]).astype(np.uint8)
    for other in taken:
        cv2.circle(free, (other.x - left, other.y - top), other.radius + radius + GAP, 0, -1)
    return free != 0


def _place_beside(mask: np.ndarray, taken: Sequence[Place], radius: int) -> Place:
    """The free point that is nearest to a mask; that of the picture's middle if nothing is free."""
    height, width = mask.shape
    distance = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 3)
    for others in (taken, ()):
        free = _free_for(mask.shape, others, radius, (0, 0, height, width))
        if free.any():
            break
    y, x = map(int, np.unravel_index(int(np.where(free, distance, np.inf).argmin()), mask.shape))
    rows, columns = np.nonzero(mask)
    nearest = int(((rows - y) ** 2 + (columns - x) ** 2).argmin())
    return Place(x, y, radius, (int(columns[nearest]), int(rows[nearest])))


__all__ = ['Place', 'place_numbers']
