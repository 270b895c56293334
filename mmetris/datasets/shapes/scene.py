"""What a Shapes scene is, and how one is drawn at random.

A scene is plain data: some objects, each with a shape, a colour, a size, a texture and a place, on a dull
background. ``render.py`` turns it into pixels, ``expressions.py`` and ``captions.py`` into words.

Axes: K objects. Coordinates are continuous pixels (x, y) with (0, 0) the upper left corner of the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

_T = TypeVar('_T')

SHAPES = ('circle', 'square', 'triangle', 'star', 'ring', 'cross', 'heart')
COLOURS = {  # RGB 0..255; the backgrounds stay dull, so each of these stands out
    'red': (222, 40, 36),
    'orange': (245, 140, 24),
    'yellow': (250, 222, 40),
    'green': (38, 160, 62),
    'cyan': (60, 214, 226),
    'blue': (34, 74, 216),
    'purple': (128, 40, 172),
    'pink': (255, 150, 204),
}
SIZES = {'small': (20.0, 26.0), 'large': (36.0, 46.0)}  # pixels across; the empty range between keeps them apart
TEXTURES = ('plain', 'striped', 'dotted', 'checkered')
BACKGROUNDS = ('flat', 'gradient', 'cloudy', 'tiles', 'planks')
IMAGE_SIZES = ((128, 96), (96, 128), (112, 112))  # (W, H)

_GAP = 3.0  # pixels kept free between two objects, and half of it to the border
_TILT = 12.0  # degrees an object may lean to either side
_PLACE_TRIES = 40


@dataclass(frozen=True)
class SceneObject:
    """One object: ``(x, y)`` is the centre of its bounding box, ``extent`` the box's longer side in pixels."""

    shape: str
    colour: str
    size: str
    texture: str
    x: float
    y: float
    extent: float
    tilt: float

    @property
    def look(self) -> tuple[str, str, str, str]:
        """The four attributes a sentence can name; no two objects of a scene share all of them."""
        return self.colour, self.shape, self.size, self.texture


@dataclass(frozen=True)
class Scene:
    """Objects on a background; ``seed`` drives the background's details and the sensor noise."""

    width: int
    height: int
    objects: tuple[SceneObject, ...]
    background: str
    seed: int


def _pick(rng: np.random.Generator, options: Sequence[_T]) -> _T:
    return options[int(rng.integers(len(options)))]


def _random_looks(rng: np.random.Generator, num_objects: int, twins: bool) -> list | None:
    """Draw ``num_objects`` different looks of which the first two are easily mistaken for each other."""
    colours = tuple(COLOURS)

    def draw() -> list:
        # Small objects are drawn more often: more of them fit.
        size = 'small' if rng.random() < 0.6 else 'large'
        return [_pick(rng, colours), _pick(rng, SHAPES), size, _pick(rng, TEXTURES)]

    looks = [draw() for _ in range(num_objects)]
    if num_objects > 1:
        if twins:  # same colour and same shape
            looks[1][:2] = looks[0][:2]
        else:  # same colour or same shape
            shared = int(rng.integers(2))
            looks[1][shared] = looks[0][shared]
    for look in looks[2:]:  # further distractors borrow an attribute from an earlier object now and then
        if rng.random() < 0.4:
            axis = int(rng.integers(2))
            look[axis] = _pick(rng, looks[:2])[axis]
    pairs = [tuple(look[:2]) for look in looks]
    has_twins = len(set(pairs)) < len(pairs)
    if len({tuple(look) for look in looks}) < num_objects or has_twins != (twins and num_objects > 1):
        return None
    return looks


def _place(rng: np.random.Generator, extents: list, width: int, height: int) -> list | None:
    """Find centres for squares of the given sides so that none overlap; None if the dice do not allow it."""
    centres: list[tuple[float, float] | None] = [None] * len(extents)
    for index in sorted(range(len(extents)), key=lambda i: -extents[i]):  # the largest first: it fits more often
        half = extents[index] / 2 + _GAP / 2
        for _ in range(_PLACE_TRIES):
            x, y = float(rng.uniform(half, width - half)), float(rng.uniform(half, height - half))
            if all(
                centre is None or max(abs(x - centre[0]), abs(y - centre[1])) > half + (other + _GAP) / 2
                for centre, other in zip(centres, extents)
            ):
                centres[index] = (round(x, 2), round(y, 2))
                break
        else:
            return None
    return centres


def random_scene(
    rng: np.random.Generator, min_objects: int = 3, max_objects: int = 5, twins: bool | None = None
) -> Scene:
    """Draw a scene whose objects do not overlap.

    Args:
        rng: Source of all randomness.
        min_objects: Fewest objects, at least 1.
        max_objects: Most objects, at most 6 (more do not fit).
        twins: Whether two objects share both shape and colour (they then differ in size or texture). None draws
            it, half and half. Without twins the first two objects still share a shape or a colour.

    Raises:
        ValueError: If the numbers of objects are out of range.
    """
    if not 1 <= min_objects <= max_objects <= 6:
        raise ValueError(
            f'min_objects={min_objects}, max_objects={max_objects}: need 1 <= min_objects <= max_objects <= 6'
        )
    num_objects = int(rng.integers(min_objects, max_objects + 1))
    if twins is None:
        twins = bool(rng.random() < 0.5)
    width, height = _pick(rng, IMAGE_SIZES)
    while True:
        looks = _random_looks(rng, num_objects, twins)
        if looks is None:
            continue
        extents = [round(float(rng.uniform(*SIZES[look[2]])), 2) for look in looks]
        centres = _place(rng, extents, width, height)
        if centres is not None:
            break
    objects = tuple(
        SceneObject(shape, colour, size, texture, x, y, extent, round(float(rng.uniform(-_TILT, _TILT)), 2))
        for (colour, shape, size, texture), (x, y), extent in zip(looks, centres, extents)
    )
    # The order of drawing must not tell which objects were made alike.
    order = rng.permutation(num_objects)
    scene = Scene(width, height, objects, _pick(rng, BACKGROUNDS), int(rng.integers(2**31)))
    return replace(scene, objects=tuple(objects[i] for i in order))
