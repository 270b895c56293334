"""A tiny data set in REFER's layout in a temporary folder: real JPEG files, every form of mask, all splits."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask

# image id -> (height, width); COCO's numbers, so that images of two toy sets are recognised as the same.
IMAGES = {11: (48, 64), 12: (64, 48), 13: (40, 40), 14: (60, 80)}
# ref_id -> (split, ann_id, image_id, sentences). Refs 3 and 4 share one annotation.
REFS = {
    1: ('train', 101, 11, ['the left square', 'green square', 'square on the left side']),
    2: ('train', 102, 11, ['two bars', 'the bars on the right']),
    3: ('train', 103, 12, ['the disc']),
    4: ('train', 103, 12, ['round thing in the middle', 'circle']),
    5: ('val', 104, 13, ['bottom left corner', 'the dark corner', 'corner']),
    6: ('testA', 105, 14, ['person on the far right']),
    7: ('testB', 106, 14, ['the lower thing', 'thing']),
}


def disc(height: int, width: int) -> np.ndarray:
    """A disc in the middle, uint8 (H, W) of 0 and 1."""
    y, x = np.mgrid[:height, :width]
    return ((y - height // 2) ** 2 + (x - width // 2) ** 2 <= (min(height, width) // 4) ** 2).astype(np.uint8)


def uncompressed_rle(mask: np.ndarray) -> dict:
    """COCO's uncompressed RLE of a mask (H, W): lengths of runs of 0, 1, 0, ... in order of columns."""
    flat = mask.T.reshape(-1)
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return dict(size=list(mask.shape), counts=counts if flat[0] == 0 else [0, *counts])


def compressed_rle(mask: np.ndarray) -> dict:
    """COCO's compressed RLE of a mask (H, W), its counts a string as in JSON."""
    rle = coco_mask.encode(np.asfortranarray(mask))
    return dict(size=list(mask.shape), counts=rle['counts'].decode())


def rectangle(left: float, top: float, right: float, bottom: float) -> list[float]:
    """A rectangle as one of COCO's polygons."""
    return [left, top, right, top, right, bottom, left, bottom]


def segmentations() -> dict[int, list | dict]:
    """The mask of each annotation: polygon, two polygons, compressed RLE, uncompressed RLE, and two more polygons."""
    corner = np.zeros(IMAGES[13], np.uint8)
    corner[30:, :8] = 1
    return {
        101: [rectangle(4, 10, 20, 26)],
        102: [rectangle(40, 8, 60, 14), rectangle(40, 30, 60, 40)],
        103: compressed_rle(disc(*IMAGES[12])),
        104: uncompressed_rle(corner),
        105: [rectangle(60, 10, 76, 50)],
        106: [rectangle(10, 40, 50, 56)],
    }


def file_name(image_id: int) -> str:
    """Name of an image, in the manner of COCO's train2014."""
    return f'COCO_train2014_{image_id:012d}.jpg'


def write_toy_refer(
    root: str | Path,
    name: str = 'refcoco',
    split_by: str = 'unc',
    change: Callable[[dict, list], None] | None = None,
    protocol: int = 2,
) -> Path:
    """Write the data set: 6 annotations and 7 refs on 4 images; 8 / 3 / 1 / 2 sentences in train / val / testA / testB.

    Args:
        root: Folder to write to; made if missing.
        name: Folder of the annotations in it.
        split_by: Name in brackets of the split file.
        change: Called with the content of ``instances.json`` and the refs before they are written, to spoil them.
        protocol: Of the pickle; 2 is what Python 2 writes.

    Returns:
        ``root``.
    """
    root = Path(root)
    (root / name).mkdir(parents=True, exist_ok=True)
    (root / 'train2014').mkdir(exist_ok=True)
    masks = segmentations()
    image_of = {ann_id: image_id for _, ann_id, image_id, _ in REFS.values()}

    for image_id, (height, width) in IMAGES.items():
        image = np.random.default_rng(image_id).integers(0, 90, (height, width, 3)).astype(np.uint8)
        for ann_id in masks:
            if image_of[ann_id] == image_id:
                image[decode(masks[ann_id], height, width) == 1] = (60, 250 - 40 * (ann_id % 3), 60 * (ann_id % 3))
        cv2.imwrite(str(root / 'train2014' / file_name(image_id)), image)

    instances = dict(
        images=[
            dict(id=image_id, file_name=file_name(image_id), height=height, width=width)
            for image_id, (height, width) in IMAGES.items()
        ],
        annotations=[
            dict(id=ann_id, image_id=image_of[ann_id], category_id=ann_id % 3, segmentation=mask, iscrowd=0)
            for ann_id, mask in masks.items()
        ],
        categories=[dict(id=index, name=f'thing {index}') for index in range(3)],
    )
    refs = []
    for ref_id, (split, ann_id, image_id, texts) in REFS.items():
        sentences = [
            dict(sent_id=10 * ref_id + index, sent=text, raw=text.capitalize() + '.', tokens=text.split())
            for index, text in enumerate(texts)
        ]
        refs.append(
            dict(
                ref_id=ref_id,
                ann_id=ann_id,
                image_id=image_id,
                category_id=ann_id % 3,
                split=split,
                file_name=file_name(image_id).replace('.jpg', f'_{ann_id}.jpg'),
                sentences=sentences,
                sent_ids=[sentence['sent_id'] for sentence in sentences],
            )
        )
    if change is not None:
        change(instances, refs)
    (root / name / 'instances.json').write_text(json.dumps(instances))
    (root / name / f'refs({split_by}).p').write_bytes(pickle.dumps(refs, protocol=protocol))
    return root


def decode(segmentation: list | dict, height: int, width: int) -> np.ndarray:
    """A mask from any of COCO's forms, uint8 (H, W), without the package's own reader: a yardstick for it."""
    if isinstance(segmentation, list):
        return np.maximum.reduce([coco_mask.decode(rle) for rle in coco_mask.frPyObjects(segmentation, height, width)])
    if isinstance(segmentation['counts'], list):
        return coco_mask.decode(coco_mask.frPyObjects(segmentation, height, width))
    return coco_mask.decode(segmentation)
