"""The same two pictures as exports of LabelMe, CVAT and COCO."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 30, 50
SQUARE = [[4, 5], [14, 5], [14, 15], [4, 15]]
OTHER = [[30, 2], [40, 2], [40, 12], [30, 12]]
CORNER = np.array([[1, 0], [1, 1], [1, 1]], bool)  # At (20, 10): x, y.


def masks() -> dict[str, np.ndarray]:
    """What each sentence means in the first picture."""
    square, other, corner = (np.zeros((HEIGHT, WIDTH), bool) for _ in range(3))
    square[5:15, 4:14] = True
    other[2:12, 30:40] = True
    corner[10:13, 20:22] = CORNER
    return {'the box': square, 'both boxes': square | other, 'a corner': corner}


def write_pictures(folder: Path) -> None:
    """``a.png`` and ``sub/b.png``."""
    (folder / 'sub').mkdir(parents=True)
    for index, name in enumerate(('a.png', 'sub/b.png')):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 80 * index + 60, np.uint8)).save(folder / name)


def labelme_file() -> dict:
    """LabelMe's file of the first picture."""
    buffer = io.BytesIO()
    Image.fromarray(CORNER).save(buffer, 'png')
    shapes = [
        dict(label='box', description='the box\nboth boxes', points=SQUARE, shape_type='polygon', group_id=None),
        dict(label='both boxes', description=' ', points=[OTHER[2], OTHER[0]], shape_type='rectangle', group_id=None),
        dict(label='a corner', points=[[20, 10], [21, 12]], shape_type='mask', group_id=None)
        | dict(mask=base64.b64encode(buffer.getvalue()).decode()),
        dict(label='a dot', points=[[1, 1]], shape_type='point', group_id=None),
    ]
    return dict(version='5', shapes=shapes, imagePath='../images/a.png', imageHeight=HEIGHT, imageWidth=WIDTH)


def write_labelme(root: Path) -> Path:
    """``annotations/*.json`` beside ``images/``; the folder of the annotations is returned."""
    write_pictures(root / 'images')
    (root / 'annotations').mkdir()
    other = dict(labelme_file(), imagePath='..\\images\\sub\\b.png')
    other['shapes'] = [dict(label='disc', points=[[25, 15], [25, 20]], shape_type='circle')]
    for name, content in (('a', labelme_file()), ('b', other)):
        (root / 'annotations' / f'{name}.json').write_text(json.dumps(content))
    return root / 'annotations'


def cvat_text() -> str:
    """CVAT's file of both pictures, of which the second is in its subset for validation."""

    def points(polygon):
        return ';'.join(f'{x},{y:.2f}' for x, y in polygon)

    def said(text):
        return f'<attribute name="phrase">{text}</attribute>'

    return f"""<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <image id="0" name="a.png" subset="Train" width="{WIDTH}" height="{HEIGHT}">
    <polygon label="box" occluded="0" points="{points(SQUARE)}" z_order="0">{said('the box')}</polygon>
    <polygon label="box" points="{points(SQUARE)}" group_id="2">{said('both boxes')}</polygon>
    <box label="box" xtl="30.0" ytl="2.0" xbr="40.0" ybr="12.0" group_id="2">{said('')}</box>
    <mask label="corner" rle="0, 1, 1, 4" left="20" top="10" width="2" height="3">{said('a corner')}</mask>
    <points label="dot" points="1,1">{said('a dot')}</points>
    <tag label="good"></tag>
  </image>
  <image id="1" name="sub/b.png" subset="Validation" width="{WIDTH}" height="{HEIGHT}">
    <ellipse label="disc" cx="25" cy="15" rx="5" ry="5">{said('disc')}</ellipse>
    <box label="bar" xtl="10" ytl="12" xbr="20" ybr="16" rotation="90">{said('bar')}</box>
  </image>
</annotations>
"""


def write_cvat(root: Path, text: str | None = None) -> Path:
    """``annotations.xml`` beside ``images/``; the folder is returned."""
    write_pictures(root / 'images')
    (root / 'annotations.xml').write_text(cvat_text() if text is None else text)
    return root


def coco_file() -> dict:
    """COCO's file of both pictures."""

    def flat(polygon):
        return [float(value) for point in polygon for value in point]

    counts = [20 * HEIGHT + 10, 3, HEIGHT - 2, 2]
    corner = dict(size=[HEIGHT, WIDTH], counts=[*counts, HEIGHT * WIDTH - sum(counts)])
    annotations = [
        dict(id=1, image_id=1, category_id=7, segmentation=[flat(SQUARE)], attributes=dict(caption='the box')),
        dict(id=2, image_id=1, category_id=7, segmentation=[flat(SQUARE), flat(OTHER)], caption=['both boxes']),
        dict(id=3, image_id=1, category_id=8, segmentation=corner, attributes=dict(caption='a corner', occluded=False)),
        dict(id=4, image_id=2, category_id=8, segmentation=[], attributes=dict(caption='nothing drawn')),
        dict(id=5, image_id=2, category_id=8, segmentation=[flat(OTHER)], attributes=dict(caption='')),
    ]
    images = [
        dict(id=number, file_name=name, height=HEIGHT, width=WIDTH) for number, name in ((1, 'a.png'), (2, 'sub/b.png'))
    ]
    categories = [dict(id=7, name='box'), dict(id=8, name='corner')]
    return dict(images=images, annotations=annotations, categories=categories)


def write_coco(root: Path, content: dict | None = None) -> Path:
    """``annotations/instances.json`` beside ``images/``; the file is returned."""
    write_pictures(root / 'images')
    (root / 'annotations').mkdir()
    path = root / 'annotations' / 'instances.json'
    path.write_text(json.dumps(coco_file() if content is None else content))
    return path
