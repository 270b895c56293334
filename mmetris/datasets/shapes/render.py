"""Draw a Shapes scene: pixels, masks and outlines.

All shapes are polygons (a ring is two, the inner one a hole), so the outline written into the annotation file is
the very outline that was filled. Axes: K objects, H W pixels. Colours are RGB.
"""

from functools import cache

import cv2
import numpy as np

from .scene import COLOURS, Scene, SceneObject

_OVERSAMPLE = 4  # sub-pixels per pixel along each axis: 17 grey levels on an edge
_RING_HOLE = 0.52  # inner over outer radius
_DARK = 0.42  # brightness of stripes, dots and checks, relative to the object's colour
_RIM = 0.62  # brightness of the thin rim that sets an object off from its background


@cache
def _unit_contours(shape: str) -> tuple[np.ndarray, ...]:
    """Contours of a shape about the origin, y down, before tilting and scaling."""
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], 1)
    if shape == 'circle':
        return (circle,)
    if shape == 'ring':
        return circle, circle * _RING_HOLE
    if shape == 'square':
        return (np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], float),)
    if shape == 'triangle':
        return (np.array([[0, -0.95], [1, 0.85], [-1, 0.85]], float),)
    if shape == 'star':
        angle = -np.pi / 2 + np.arange(10) * np.pi / 5
        radius = np.where(np.arange(10) % 2, 0.44, 1.0)
        return (np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1),)
    if shape == 'cross':
        arm = 0.34
        return (
            np.array(
                [
                    [-arm, -1],
                    [arm, -1],
                    [arm, -arm],
                    [1, -arm],
                    [1, arm],
                    [arm, arm],
                    [arm, 1],
                    [-arm, 1],
                    [-arm, arm],
                    [-1, arm],
                    [-1, -arm],
                    [-arm, -arm],
                ],
                float,
            ),
        )
    if shape == 'heart':
        x = 16 * np.sin(turn) ** 3
        y = -(13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn))
        return (np.stack([x, y], 1) / 16,)
    raise KeyError(f'unknown shape {shape!r}: it has no contour')


def contours(obj: SceneObject) -> list[np.ndarray]:
    """Return the object's outline in image coordinates.

    Returns:
        One (P, 2) float array of (x, y) for each closed contour, the outer one first; a second one is a hole.
        The bounding box is centred on ``(obj.x, obj.y)`` and ``obj.extent`` long on its longer side.
    """
    angle = np.deg2rad(obj.tilt)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turned = [contour @ rotation for contour in _unit_contours(obj.shape)]
    low, high = turned[0].min(0), turned[0].max(0)
    scale = obj.extent / (high - low).max()
    return [(contour - (low + high) / 2) * scale + (obj.x, obj.y) for contour in turned]


def _coverage(obj: SceneObject, width: int, height: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Part of each pixel the object covers, 0..1, on the smallest whole-pixel window; and its (left, top)."""
    lines = contours(obj)
    left, top = np.floor(lines[0].min(0)).astype(int) - 1
    right, bottom = np.ceil(lines[0].max(0)).astype(int) + 1
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    canvas = np.zeros(((bottom - top) * _OVERSAMPLE, (right - left) * _OVERSAMPLE), np.uint8)
    # fillPoly's integer points are sub-pixel centres; 4 fractional bits keep the outline's own precision.
    points = [np.round(((line - (left, top)) * _OVERSAMPLE - 0.5) * 16).astype(np.int32) for line in lines]
    cv2.fillPoly(canvas, points, 255, shift=4)
    size = (right - left, bottom - top)
    return cv2.resize(canvas, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255, (left, top)


def _pattern(obj: SceneObject, left: int, top: int, height: int, width: int) -> np.ndarray:
    """Where the object's texture is dark, 0..1 with soft edges, (height, width), fixed to the object's centre."""
    x = np.arange(left, left + width, dtype=np.float32)[None] + 0.5 - obj.x
    y = np.arange(top, top + height, dtype=np.float32)[:, None] + 0.5 - obj.y
    period = 6.0 if obj.size == 'small' else 8.0
    if obj.texture == 'striped':
        wave = np.sin((x * 0.5 + y * 0.866) * (2 * np.pi / period))
        return np.clip(wave * 2.5 + 0.5, 0, 1)
    if obj.texture == 'dotted':
        row = np.round(y / period)
        dx = (x + (row % 2) * period / 2 + period / 2) % period - period / 2
        dy = y - row * period
        return np.clip(period * 0.30 - np.hypot(dx, dy) + 0.5, 0, 1)
    if obj.texture == 'checkered':
        side = period * 0.9
        wave = np.sin(x * np.pi / side) * np.sin(y * np.pi / side)
        return np.clip(wave * 5 + 0.5, 0, 1)
    return np.zeros((height, width), np.float32)


def _background(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A dull backdrop, (H, W, 3) float, 0..255: mid grey with little tint, so that every object colour differs."""
    height, width = scene.height, scene.width

    def dull() -> np.ndarray:
        return rng.uniform(88, 150) + rng.uniform(-13, 13, 3)

    base = np.broadcast_to(dull(), (height, width, 3)).astype(np.float32)
    x = np.arange(width, dtype=np.float32)[None]
    y = np.arange(height, dtype=np.float32)[:, None]
    if scene.background == 'gradient':
        angle = rng.uniform(0, 2 * np.pi)
        ramp = np.cos(angle) * (x / width - 0.5) + np.sin(angle) * (y / height - 0.5) + 0.5
        return base + np.clip(ramp, 0, 1)[..., None] * (dull() - base)
    if scene.background == 'cloudy':
        clouds = cv2.resize(rng.normal(size=(6, 6)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        return base + 13 * clouds[..., None]
    if scene.background == 'tiles':
        tile = rng.integers(12, 24)
        odd = (x // tile + y // tile) % 2
        seam = (x % tile < 1) | (y % tile < 1)
        return base + (9 * odd - 16 * seam)[..., None]
    if scene.background == 'planks':
        side = int(rng.integers(11, 20))
        shade = rng.normal(0, 7, height // side + 1).astype(np.float32)[(y // side).astype(int)]
        grain = cv2.resize(
            rng.normal(size=(height, 5)).astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR
        )
        return base + (shade + 4 * grain - 14 * (y % side < 1))[..., None]
    return base


def render(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Draw the scene.

    Returns:
        The picture, (H, W, 3) uint8 RGB, and one mask per object in the order of ``scene.objects``, (K, H, W) bool:
        the pixels it covers by at least half. The same scene always gives the same pixels.
    """
    rng = np.random.default_rng(scene.seed)
    image = _background(scene, rng).copy()
    masks = np.zeros((len(scene.objects), scene.height, scene.width), bool)
    for mask, obj in zip(masks, scene.objects):
        cover, (left, top) = _coverage(obj, scene.width, scene.height)
        height, width = cover.shape
        window = (slice(top, top + height), slice(left, left + width))
        mask[window] = cover >= 0.5
        inner = cv2.erode(cover, np.ones((3, 3), np.uint8))
        shade = 1 - (1 - _DARK) * _pattern(obj, left, top, height, width)
        shade = inner * shade + (1 - inner) * np.minimum(shade, _RIM)
        paint = np.array(COLOURS[obj.colour], np.float32) * rng.uniform(0.93, 1.0)
        image[window] += cover[..., None] * (shade[..., None] * paint - image[window])
    image += rng.normal(0, 2.5, image.shape).astype(np.float32)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), masks
