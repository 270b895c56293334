"""Where a user would click next: in the middle of what is most wrong."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from mmetris.utils.shapes import bounds_of

from .points import NEGATIVE, POSITIVE, Click


def depth_of(region: np.ndarray) -> np.ndarray:
    """Euclidean distance of each pixel of a region to the nearest pixel outside of it; beyond the border is outside.

    Args:
        region: (H, W) bool.

    Returns:
        (H, W) float32, 0 outside of the region.
    """
    depth = np.zeros(region.shape, np.float32)
    if region.any():
        # Mistakes are small, and what is around them does not change how deep they are.
        left, top, right, bottom = bounds_of(region)
        padded = np.pad(region[top:bottom, left:right].astype(np.uint8), 1)
        distances = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        depth[top:bottom, left:right] = distances[1:-1, 1:-1]
    return depth


def next_click(
    predicted: np.ndarray,
    true: np.ndarray,
    clicks: Sequence[Click] = (),
    rng: np.random.Generator | None = None,
) -> Click | None:
    """The click that corrects the largest mistake: the deepest point of what is missing (positive) or too much
    (negative), as interactive segmentation is evaluated (Sofiiuk et al., "Reviving Iterative Training with Mask
    Guidance for Interactive Segmentation", 2021).

    Depth is the distance to the region's outline, so the larger mistake is the one into which the larger disc fits. Of
    equally deep points the first in reading order is taken, and a missing one before one that is too much. Pixels that
    were clicked are not clicked again.

    Args:
        predicted: (H, W), other than 0 inside of the mask.
        true: (H, W), 1 on the object, 0 elsewhere, 255 where the truth is not known: there is no mistake there.
        clicks: Those made before, on the same grid.
        rng: For training: a random one of the points that are at least half as deep is taken, since users do not
            measure. Defaults to None: the deepest.

    Returns:
        The click; None where nothing is wrong, or all that is was clicked.
    """
    predicted = predicted != 0
    depths = {POSITIVE: depth_of((true == 1) & ~predicted), NEGATIVE: depth_of((true == 0) & predicted)}
    for x, y, _ in clicks:
        for depth in depths.values():
            depth[round(y), round(x)] = 0
    label = POSITIVE if depths[POSITIVE].max() >= depths[NEGATIVE].max() else NEGATIVE
    depth = depths[label]
    deepest = depth.max()
    if deepest == 0:
        return None
    place = depth.argmax() if rng is None else rng.choice(np.flatnonzero(depth >= deepest / 2))
    y, x = np.unravel_index(place, depth.shape)
    return Click(float(x), float(y), label)
