"""What is said of the model that ships: it knows the drawn pictures of Shapes, and answers any other all the same.

Three shares of a picture's pixels tell a drawn scene from a photograph, on the picture made as small as the drawn ones
are. They are of what :mod:`mmetris.datasets.shapes.render` draws: a dull backdrop that reaches the border, and areas of
one colour with little noise. The limits lie outside of all scenes that were drawn to set them; docs/inference.md has
the errors.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from . import model_zoo

NOTE = (
    'the model that ships with mmetris knows drawn shapes only (docs/shapes.md); for photographs give a model '
    '(--model, model=) that was trained on them'
)
LONGEST_SIDE = 128  # of a drawn picture


class Look(NamedTuple):
    """Shares that tell a drawn scene, each 0..1.

    Attributes:
        border: Of the outermost pixels, those that are dull: neither dark nor bright, and of little colour.
        dull: The same of all pixels.
        flat: Of all pairs of neighbours, those that differ by noise at most.
    """

    border: float
    dull: float
    flat: float


LEAST = Look(border=0.85, dull=0.5, flat=0.65)


def look_of(image: np.ndarray) -> Look:
    """Measure a picture.

    Args:
        image: (H, W, 3) uint8; the order of the channels plays no part.
    """
    scale = LONGEST_SIDE / max(image.shape[:2])
    if scale < 1:
        size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    values = image.astype(np.int16)
    lowest, highest = values.min(2), values.max(2)
    dull = (highest - lowest <= 50) & (lowest >= 55) & (highest <= 190)
    border = np.concatenate([dull[0], dull[-1], dull[:, 0], dull[:, -1]])
    flat = [np.abs(np.diff(values, axis=axis)).max(2).ravel() <= 12 for axis in (0, 1)]
    pairs = np.concatenate(flat)
    return Look(float(border.mean()), float(dull.mean()), float(pairs.mean()) if pairs.size else 1.0)


def looks_drawn(image: np.ndarray) -> bool:
    """Whether a picture may be one of Shapes: none of its shares is below :data:`LEAST`.

    Args:
        image: See :func:`look_of`.
    """
    return all(share >= least for share, least in zip(look_of(image), LEAST, strict=True))


class ShapesNotes:
    """Warn once of the model, and once more at its first picture that is not drawn; say it of each."""

    def __init__(self) -> None:
        warnings.warn(NOTE, stacklevel=4)
        self._has_warned = False

    def of(self, image: np.ndarray, name: str) -> str:
        """What is to be said of the answers on one picture: :data:`NOTE`, or that they mean nothing.

        Args:
            image: (H, W, 3) uint8.
            name: What the picture is called.
        """
        if looks_drawn(image):
            return NOTE
        own = f'{name} is unlike the drawn pictures that the model was trained on: masks and scores mean nothing'
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(own, stacklevel=2)
        return f'{own}; {NOTE}'


def notes_for(weights: str | os.PathLike | None) -> ShapesNotes | None:
    """Notes on the model that ships with mmetris, by its checkpoint; None for any other.

    Args:
        weights: File of the checkpoint; None where the model has none.
    """
    if weights is None:
        return None
    try:
        shipped = model_zoo.package_root() / model_zoo.DEMO_WEIGHTS
    except FileNotFoundError:  # Nothing ships with this copy.
        return None
    return ShapesNotes() if Path(weights).resolve() == shipped.resolve() else None
