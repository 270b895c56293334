"""Shapes for semantic segmentation: a class for each colour and shape, in the layout of MMSeg's BaseSegDataset.

    <root>/images/train/000000.jpg ...         and val, testA, testB
    <root>/annotations/train/000000.png ...    uint8 labels: 0 background, then SEMSEG_CLASSES in their order
    <root>/shapes.json                         version and arguments this copy was drawn with

The scenes are those of the referring data set of the same seed.
"""

import cv2
import numpy as np

from .render import render
from .scene import COLOURS, SHAPES, Scene

SEMSEG_CLASSES = ('background', *(f'{colour} {shape}' for colour in COLOURS for shape in SHAPES))


def semseg_palette() -> list[list[int]]:
    """An RGB colour for each of :data:`SEMSEG_CLASSES`: that of its objects, darker from shape to shape."""
    shades = np.linspace(1, 0.4, len(SHAPES))
    colours = [(np.array(colour) * shade).astype(int).tolist() for colour in COLOURS.values() for shade in shades]
    return [[0, 0, 0], *colours]


def label_map(scene: Scene, masks: np.ndarray) -> np.ndarray:
    """Labels of a scene.

    Args:
        scene: The scene.
        masks: (K, H, W) bool, of its objects.

    Returns:
        (H, W) uint8 indices of :data:`SEMSEG_CLASSES`.
    """
    labels = np.zeros(masks.shape[1:], np.uint8)
    for obj, mask in zip(scene.objects, masks):
        labels[mask] = SEMSEG_CLASSES.index(f'{obj.colour} {obj.shape}')
    return labels


def draw_semseg(scene: Scene, jpeg_quality: int) -> tuple[bytes, bytes]:
    """A scene's picture as JPEG and its labels as PNG."""
    image, masks = render(scene)
    jpeg = cv2.imencode('.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])[1]
    return jpeg.tobytes(), cv2.imencode('.png', label_map(scene, masks))[1].tobytes()
