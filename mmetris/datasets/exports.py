"""Exports of annotation tools (LabelMe, CVAT, COCO): pictures, their regions, and the sentences written to these."""

from __future__ import annotations

import base64
import binascii
import io
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from ..utils.image_io import FORMATS, upright_hw
from ..utils.text_files import read_text
from .refer import load_instances, load_json
from .segmentation import segmentation_to_rle, whole_number

# Where a sentence is looked for, unless its place is given.
TEXT_FIELDS = ('sentence', 'text', 'expression', 'referring_expression', 'caption', 'description')
LABEL = 'label'  # As the place of the sentences: the name of the class.
# CVAT's names of subsets; 'default' says nothing.
SUBSETS = dict(train='train', training='train', val='val', validation='val', test='test', testing='test', default=None)
# Shapes without an area, by the names that the tools give them.
WITHOUT_AREA = ('point', 'points', 'line', 'linestrip', 'polyline', 'cuboid', 'skeleton')


class Region(NamedTuple):
    """A marked region of a picture.

    Attributes:
        sentences: What was written to it; none, if nothing was.
        rle: Its mask as compressed RLE.
        group: Regions of one picture with the same group, other than None, are parts of one object.
    """

    sentences: tuple[str, ...]
    rle: dict
    group: Any = None


class Picture(NamedTuple):
    """A picture with its regions.

    Attributes:
        name: Path of the picture inside of the folder of pictures, with slashes.
        regions: What is marked in it.
        split: Which split the export has it in, if it says.
    """

    name: str
    regions: list[Region]
    split: str | None = None


class Export:
    """An export that is being read: where its pictures are, where its sentences stand, and what was left out.

    Args:
        source: The export, a file or a folder, see :func:`read_labelme`, :func:`read_cvat` and :func:`read_coco`.
        images: Folder of the pictures. Defaults to None: where the tool puts them.
        text: Name of the field or attribute with the sentence; ``'label'`` is the name of the class. Defaults to None:
            the first of :data:`TEXT_FIELDS` that is there.
        separator: What separates several sentences of a region, besides the end of a line. Defaults to None: nothing.
    """

    def __init__(
        self,
        source: str | os.PathLike,
        images: str | os.PathLike | None = None,
        text: str | None = None,
        separator: str | None = None,
    ) -> None:
        self.source = Path(source)
        self.images: Path | None = None if images is None else Path(images)
        self.text = text
        self.separator = separator
        self.left_out: Counter[str] = Counter()
        self.first_left_out: dict[str, str] = {}
        self.seen_fields: Counter[str] = Counter()
        if not self.source.exists():
            raise FileNotFoundError(f'{source} does not exist')
        if self.images is not None and not self.images.is_dir():
            raise FileNotFoundError(f'the folder of pictures {images} does not exist')

    def leave_out(self, reason: str, where: str) -> None:
        """Count a region that is not taken, and remember where the first one is."""
        self.left_out[reason] += 1
        self.first_left_out.setdefault(reason, where)

    def sentences(self, fields: Mapping[str, Any], label: Any = None) -> tuple[str, ...]:
        """The sentences that were written to a region.

        Args:
            fields: Its fields or attributes by name.
            label: Name of its class.
        """
        self.seen_fields.update(key for key, value in fields.items() if isinstance(value, (str, list)))
        if self.text == LABEL:
            value = label
        elif self.text is not None:
            value = fields.get(self.text)
        else:
            value = next((fields[name] for name in TEXT_FIELDS if _has_text(fields.get(name))), None)
        values = value if isinstance(value, list) else [value]
        lines = [line for part in values if isinstance(part, str) for line in part.splitlines()]
        if self.separator:
            lines = [part for line in lines for part in line.split(self.separator)]
        return tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))

    def folder_of_images(self, *candidates: Path) -> Path:
        """The folder of pictures: the one that was given or found before, or the first of some that is there."""
        if self.images is None:
            self.images = next((folder for folder in candidates if folder.is_dir()), self.source.parent)
        return self.images

    def check_size(self, name: str, size: tuple[Any, Any], where: str) -> tuple[int, int]:
        """Height and width of a picture, which must be there and have the size that the annotation says.

        Args:
            name: Path inside of the folder of pictures.
            size: Height and width by the annotation.
            where: What messages call the place.

        Raises:
            FileNotFoundError: If the picture is not there.
            ValueError: If its name leads out of the folder, or it has another size.
        """
        folder = self.folder_of_images()
        path = folder / name
        if os.path.isabs(name) or '..' in Path(name).parts:
            raise ValueError(f'{where}: the picture {name!r} must be a path inside of {folder}')
        if not path.is_file():
            raise FileNotFoundError(f'{where}: the picture {path} does not exist; --images names another folder')
        height, width = upright_hw(path, f'{where}: the picture {path}')
        said = tuple(whole_number(side) for side in size)
        if said != (height, width):
            raise ValueError(
                f'{where}: the picture {path} has {height} x {width} pixels (H x W), but its annotation says '
                f'{size[0]} x {size[1]}'
            )
        return height, width


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, float, str))


def _has_text(value: Any) -> bool:
    parts = value if isinstance(value, list) else [value]
    return any(isinstance(part, str) and part.strip() for part in parts)


# LabelMe


def read_labelme(export: Export) -> Iterator[Picture]:
    """Pictures of a folder of LabelMe's JSON files, of one file for each picture.

    The sentence is a shape's ``description``, or its label where that is blank. Polygons, rectangles, circles and masks
    are regions; shapes of one ``group_id`` are one object.

    Args:
        export: With a folder, or one file, as source. Pictures are where ``imagePath`` leads from the JSON file, or in
            the given folder under that file name.

    Raises:
        FileNotFoundError: If there is no file or a picture is missing.
        ValueError: If a file or a shape is not as LabelMe writes it; the message names file and shape.
    """
    files = [export.source] if export.source.is_file() else sorted(export.source.rglob('*.json'))
    if not files:
        raise FileNotFoundError(f'no .json file in {export.source}')
    given = export.images is not None
    for path in files:
        content = load_json(str(path))
        if not isinstance(content, dict) or not isinstance(content.get('shapes'), list):
            raise ValueError(f"{path} is no file of LabelMe: it has no list 'shapes'")
        written = content.get('imagePath')
        if not isinstance(written, str) or not written.strip():
            raise ValueError(f'{path} has no imagePath')
        name = _labelme_picture(export, path, written.replace('\\', '/'), given)
        size = export.check_size(name, (content.get('imageHeight'), content.get('imageWidth')), str(path))
        regions = []
        for index, shape in enumerate(content['shapes']):
            where = f'{path}: shape {index}'
            if not isinstance(shape, dict):
                raise ValueError(f'{where} is a {type(shape).__name__}, but a dict is expected')
            flags = {key: value for key, value in shape.items() if key not in ('points', 'mask')}
            label = shape.get('label')
            sentences = export.sentences(flags, label)
            if not sentences and export.text is None and isinstance(label, str) and label.strip():
                sentences = (label.strip(),)
            rle = _drawn(_labelme_rle, where, shape, *size)
            group = shape.get('group_id')
            if group is not None and not _is_id(group):
                raise ValueError(f'{where}: group_id is {group!r}, but a number is expected')
            if rle is None:
                export.leave_out('without an area', where)
            else:
                regions.append(Region(sentences, rle, group))
        yield Picture(name, _with_sentences(export, regions, str(path)))


def _labelme_picture(export: Export, path: Path, written: str, given: bool) -> str:
    """Path of a picture inside of the folder of pictures.

    Without a given folder it is the one of the JSON files, or the one that the first picture is in.
    """
    if given:
        root = export.folder_of_images()
        return written if (root / written).is_file() else written.rsplit('/', 1)[-1]
    beside = Path(os.path.normpath(path.parent.absolute() / written))
    source = (export.source if export.source.is_dir() else export.source.parent).absolute()
    root = export.folder_of_images(source if beside.is_relative_to(source) else beside.parent).absolute()
    return beside.relative_to(root).as_posix() if beside.is_relative_to(root) else written


def _labelme_rle(shape: dict, height: int, width: int) -> dict | None:
    kind = shape.get('shape_type') or 'polygon'
    if kind in WITHOUT_AREA:
        return None
    points = _points(shape.get('points'))
    if kind == 'polygon':
        return _polygon_rle(points, height, width)
    if kind not in ('rectangle', 'circle', 'mask'):
        raise ValueError(f'the shape_type {kind!r} is not known')
    if len(points) != 2:
        raise ValueError(f'a {kind} has two points, but here are {len(points)}')
    (x0, y0), (x1, y1) = points
    if kind == 'rectangle':
        return _polygon_rle([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], height, width)
    if kind == 'circle':
        radius = math.hypot(x1 - x0, y1 - y0)
        return _ellipse_rle(x0, y0, radius, radius, 0, height, width)
    try:
        content = base64.b64decode(shape.get('mask') or '', validate=True)
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            inner = np.asarray(image.convert('L')) > 0
    except (binascii.Error, TypeError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f'its mask is no picture: {error}') from error
    return _placed_rle(inner, round(x0), round(y0), height, width)


# CVAT


def read_cvat(export: Export) -> Iterator[Picture]:
    """Pictures of an export "CVAT for images 1.1", ``annotations.xml``.

    The sentence is an attribute of the region. Polygons, boxes, ellipses and masks are regions; those of one
    ``group_id`` are one object. The subset of a picture is its split.

    Args:
        export: With the XML file, or the folder that it is in, as source. Pictures are in ``images/`` beside it, or
            beside it.

    Raises:
        FileNotFoundError: If there is no such file or a picture is missing.
        ValueError: If the file or a region is not as CVAT writes it; the message names file, picture and region.
    """
    path = export.source / 'annotations.xml' if export.source.is_dir() else export.source
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist; unpack the ZIP file of an export first')
    text = read_text(path)
    if '<!DOCTYPE' in text or '<!ENTITY' in text:  # Entities may unfold to gigabytes; CVAT writes none.
        raise ValueError(f'{path} is no file of CVAT: it declares a document type')
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f'{path} is no valid XML: {error}') from error
    if root.tag != 'annotations':
        raise ValueError(f'{path} is no file of CVAT: it begins with <{root.tag}>')
    if root.find('track') is not None:
        raise ValueError(f'{path} is an export "CVAT for video"; export "CVAT for images 1.1" instead')
    export.folder_of_images(path.parent / 'images', path.parent)
    for image in root.iter('image'):
        name = (image.get('name') or '').replace('\\', '/')
        where = f'{path}: image {name!r}'
        size = export.check_size(name, (_number(image.get('height')), _number(image.get('width'))), where)
        regions = []
        for index, shape in enumerate(image):
            if shape.tag == 'tag':
                continue
            place = f'{where}, region {index} ({shape.tag})'
            attributes = {part.get('name') or '': part.text or '' for part in shape.iter('attribute')}
            rle = _drawn(_cvat_rle, place, shape, *size)
            if rle is None:
                export.leave_out('without an area', place)
            else:
                group = shape.get('group_id')
                found = export.sentences(attributes, shape.get('label'))
                regions.append(Region(found, rle, None if group in (None, '', '0') else group))
        subset = image.get('subset')
        split = None if subset is None else SUBSETS.get(subset.lower(), subset)
        yield Picture(name, _with_sentences(export, regions, where), split)


def _cvat_rle(shape: ElementTree.Element, height: int, width: int) -> dict | None:
    def numbers(*names: str) -> list[float]:
        values = [_number(shape.get(name)) for name in names]
        if None in values:
            raise ValueError(f'{", ".join(names)} must be numbers, but are {[shape.get(name) for name in names]}')
        return [float(value) for value in values if value is not None]

    if shape.tag in WITHOUT_AREA:
        return None
    rotation = _number(shape.get('rotation')) or 0
    if shape.tag == 'polygon':
        pairs = [point.split(',') for point in (shape.get('points') or '').split(';')]
        return _polygon_rle(_points([[_number(value) for value in pair] for pair in pairs]), height, width)
    if shape.tag == 'box':
        x0, y0, x1, y1 = numbers('xtl', 'ytl', 'xbr', 'ybr')
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        cos, sin = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
        corners = [(x0 - x, y0 - y), (x1 - x, y0 - y), (x1 - x, y1 - y), (x0 - x, y1 - y)]
        return _polygon_rle([(x + cos * a - sin * b, y + sin * a + cos * b) for a, b in corners], height, width)
    if shape.tag == 'ellipse':
        x, y, a, b = numbers('cx', 'cy', 'rx', 'ry')
        return _ellipse_rle(x, y, a, b, rotation, height, width)
    if shape.tag == 'mask':
        left, top, wide, high = (int(value) for value in numbers('left', 'top', 'width', 'height'))
        runs = [whole_number(_number(run)) for run in (shape.get('rle') or '').split(',')]
        if wide < 1 or high < 1 or wide > width or high > height:
            raise ValueError(f'its mask has {high} x {wide} pixels (H x W)')
        if any(run is None or run < 0 for run in runs) or sum(run or 0 for run in runs) != wide * high:
            raise ValueError(f'the runs of its rle are no whole numbers that fill {high} x {wide} pixels (H x W)')
        # Row by row, and the first run is outside.
        inner = np.repeat(np.arange(len(runs)) % 2 == 1, [run or 0 for run in runs]).reshape(high, wide)
        return _placed_rle(inner, left, top, height, width)
    raise ValueError(f'<{shape.tag}> is not known')


# COCO


def read_coco(export: Export) -> Iterator[Picture]:
    """Pictures of an annotation file in COCO's layout whose annotations carry a sentence.

    The sentence is a field of the annotation, or of its ``attributes``; a list of sentences is taken too. Polygons and
    RLEs are regions.

    Args:
        export: With the JSON file as source. Pictures are in ``images/`` beside it or beside its folder, or beside it.

    Raises:
        FileNotFoundError: If a picture is missing.
        ValueError: If the file or an annotation is not in COCO's layout; the message names file and annotation.
    """
    path = export.source
    if path.is_dir():
        raise ValueError(f'{path} is a folder; COCO annotations are one .json file')
    instances = load_instances(str(path))
    categories: dict[Any, Any] = {}
    if export.text == LABEL:
        found = load_json(str(path)).get('categories')
        listed = [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []
        categories = {item['id']: item.get('name') for item in listed if _is_id(item.get('id'))}
    export.folder_of_images(path.parent / 'images', path.parent.parent / 'images', path.parent)
    of_image: dict[int, list[dict]] = {}
    for annotation in instances.annotations.values():
        if not _is_id(annotation.get('image_id')) or annotation['image_id'] not in instances.images:
            raise ValueError(
                f'{path}: annotation {annotation["id"]} is on image_id {annotation.get("image_id")}, which is not there'
            )
        of_image.setdefault(annotation['image_id'], []).append(annotation)
    for image_id, image in instances.images.items():
        name = image.get('file_name')
        where = f'{path}: image {image_id}'
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f'{where} has no file_name')
        if image_id not in of_image:
            continue
        size = export.check_size(name.replace('\\', '/'), (image.get('height'), image.get('width')), where)
        regions = []
        for annotation in of_image[image_id]:
            place = f'{path}: annotation {annotation["id"]}'
            inner = annotation.get('attributes')
            fields = {**annotation, **(inner if isinstance(inner, dict) else {})}
            fields = {key: value for key, value in fields.items() if key not in ('bbox', 'segmentation', 'attributes')}
            rle = _drawn(_coco_rle, place, annotation.get('segmentation'), *size)
            if rle is None:
                export.leave_out('without an area', place)
            else:
                category = annotation.get('category_id')
                label = categories.get(category) if _is_id(category) else None
                regions.append(Region(export.sentences(fields, label), rle))
        yield Picture(name.replace('\\', '/'), _with_sentences(export, regions, where))


def _coco_rle(segmentation: Any, height: int, width: int) -> dict | None:
    return segmentation_to_rle(segmentation, height, width) if segmentation else None


READERS: dict[str, Callable[[Export], Iterator[Picture]]] = dict(labelme=read_labelme, cvat=read_cvat, coco=read_coco)


# Shapes


def _drawn(draw: Callable[..., dict | None], where: str, *shape: Any) -> dict | None:
    """A region's mask; None where it has no pixel.

    Raises:
        ValueError: If it cannot be drawn; the message names the region.
    """
    try:
        rle = draw(*shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f'{where}: {error}') from error
    return rle if rle is not None and coco_mask.area(rle) else None


def _with_sentences(export: Export, regions: list[Region], where: str) -> list[Region]:
    """Regions with the sentences of their groups; those to which nothing was written are left out."""
    of_group: dict[Any, tuple[str, ...]] = {}
    for region in regions:
        if region.group is not None:
            of_group[region.group] = (*of_group.get(region.group, ()), *region.sentences)
    kept = []
    for region in regions:
        if region.sentences or of_group.get(region.group):
            kept.append(region)
        else:
            export.leave_out('without a sentence', where)
    return kept


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _points(points: Any) -> list[tuple[float, float]]:
    if not isinstance(points, list) or any(not isinstance(point, list) or len(point) != 2 for point in points):
        raise ValueError('its points are no list of pairs [x, y]')
    return [(x, y) for x, y in points]


def _polygon_rle(points: list[tuple[float, float]], height: int, width: int) -> dict:
    return segmentation_to_rle([[value for point in points for value in point]], height, width)


def _ellipse_rle(x: float, y: float, a: float, b: float, rotation: float, height: int, width: int) -> dict | None:
    """An ellipse with its centre at (x, y), its half axes, and turned clockwise by degrees."""
    if not (a > 0 and b > 0):
        return None
    rows, columns = np.mgrid[:height, :width] + 0.5  # Centres of pixels.
    cos, sin = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    along, across = cos * (columns - x) + sin * (rows - y), cos * (rows - y) - sin * (columns - x)
    return coco_mask.encode(np.asfortranarray(((along / a) ** 2 + (across / b) ** 2 <= 1).astype(np.uint8)))


def _placed_rle(inner: np.ndarray, left: int, top: int, height: int, width: int) -> dict:
    """A mask (h, w) bool whose upper left corner is at (left, top); what is out of the picture is cut off."""
    if left < 0 or top < 0 or left >= width or top >= height:
        raise ValueError(f'its mask begins at ({left}, {top}), outside of the picture')
    mask = np.zeros((height, width), np.uint8)
    part = inner[: height - top, : width - left]
    mask[top : top + part.shape[0], left : left + part.shape[1]] = part
    return coco_mask.encode(np.asfortranarray(mask))
