"""Loading of images and of masks; both stand in for the transforms of the same names in standard
pipelines."""

from __future__ import annotations

import logging
from typing import Any

import cv2
import mmseg.datasets.transforms as mmseg_transforms
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile
from mmengine.logging import print_log
from mmseg.datasets.transforms import LoadImageFromNDArray
from pycocotools import mask as coco_mask

from ...registry import TRANSFORMS
from ...utils.files import read_bytes
from ...utils.image_io import decode_image
from ..segmentation import segmentation_to_rle


@TRANSFORMS.register_module()
class LoadImageFromFile(MMCVLoadImageFromFile):
    """MMCV's transform, which sees the pixels that inference sees, and whose failure on a file that is no image says
    which file.

    Pictures with transparent parts, in CMYK or of 16 bits are decoded as by :func:`mmetris.utils.image_io.read_image`;
    so they are for ``color_type='color'``, MMCV's default, and any other is MMCV's. Keys are MMCV's.

    A file that cannot be read ends the training. With MMCV's ``ignore_empty=True`` a warning names and counts it, and
    training takes another sample in its place; evaluation, whose scores would be others, ends all the same.

    Args:
        keep_last: Whether to keep the last image, decoded, for the case that the next sample wants it too. In
            evaluation an image's sentences follow each other. Defaults to False.
        *args, **kwargs: MMCV's arguments.

    Raises:
        ValueError: If the file cannot be decoded.
        FileNotFoundError: If it does not exist.
    """

    def __init__(self, *args: Any, keep_last: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.keep_last = keep_last
        self.passed_over = 0
        self._last: tuple[str, np.ndarray] | None = None

    def transform(self, results: dict) -> dict | None:
        """Load the image."""
        if self._last is not None and self._last[0] == results['img_path']:
            # A copy, since later steps may write into it.
            image = self._last[1].copy()
            results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
            return results
        loaded = self._load(results)
        if self.keep_last and loaded is not None:
            self._last = loaded['img_path'], loaded['img'].copy()
        return loaded

    def _load(self, results: dict) -> dict | None:
        if self.color_type == 'color' and self.file_client_args is None:
            return self._load_color(results)
        try:
            return super().transform(results)
        except (AssertionError, cv2.error, AttributeError) as error:
            raise ValueError(
                f'{results["img_path"]} (img_id {results.get("img_id")}) cannot be read as an image; is it complete?'
            ) from error

    def _load_color(self, results: dict) -> dict | None:
        path = results['img_path']
        name = f'{path} (img_id {results.get("img_id")})'
        try:
            image = decode_image(read_bytes(path, self.backend_args), name, backend=self.imdecode_backend)
        except (ValueError, OSError) as error:
            if not self.ignore_empty:
                raise
            self.passed_over += 1
            print_log(
                f'{error}. It is passed over, the {self.passed_over}. of this process; training takes another sample',
                logger='current',
                level=logging.WARNING,
            )
            return None
        if self.to_float32:
            image = image.astype(np.float32)
        results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        return results


@TRANSFORMS.register_module()
class InferencerLoader(BaseTransform):
    """Load what ``mmseg.apis.MMSegInferencer`` with ``scope='mmetris'`` is given, a sentence included.

    MMSeg's inferencer puts this transform in the place of a pipeline's ``LoadImageFromFile`` and hands it a path, an
    array (H, W, 3), BGR, or a dict with one of them as ``img_path`` or ``img``; a referring model's pipeline also needs
    the dict's ``expression``.

    Args:
        **kwargs: Those of the pipeline's ``LoadImageFromFile``.
    """

    def __init__(self, **kwargs: Any) -> None:
        self.from_file = LoadImageFromFile(**kwargs)
        # Nothing in an array is left to be kept, or to be looked at by a file's ending.
        self.from_array = LoadImageFromNDArray(**{key: kwargs[key] for key in ('to_float32',) if key in kwargs})

    def transform(self, results: str | np.ndarray | dict) -> dict | None:
        """Load the image.

        Raises:
            TypeError: If the input is none of the above.
        """
        if isinstance(results, str):
            results = dict(img_path=results)
        elif isinstance(results, np.ndarray):
            results = dict(img=results)
        elif not isinstance(results, dict):
            raise TypeError(f'an image is a path, an array or a dict with one of them, not {type(results).__name__}')
        return self.from_array(results) if 'img' in results else self.from_file(results)


@TRANSFORMS.register_module()
class LoadAnnotations(mmseg_transforms.LoadAnnotations):
    """Load the object's mask as MMSeg's ``gt_seg_map``: 1 on the object, 0 elsewhere.

    Records with a ``segmentation`` in one of COCO's forms (polygons, whose union counts; RLE, compressed or
    not) are drawn by pycocotools; others go MMSeg's way (``seg_map_path``), so that standard pipelines run
    unchanged on either. Drawn at the image's original size: before resizing steps in training, after them in
    test pipelines.

    Required keys: ``segmentation``, ``height``, ``width``, ``seg_fields``; or those of MMSeg's transform. Optional:
    ``boxes``, of a data set with ``with_boxes=True``. Added keys: ``gt_seg_map``, uint8 (H, W); ``gt_bboxes``, float32
    (K, 4), where there are boxes.

    Arguments are MMSeg's.

    Raises:
        ValueError: If the image has another size than its annotation says, or the mask cannot be drawn; names
            image and annotation.
    """

    def transform(self, results: dict) -> dict:
        """Load mask and boxes."""
        results = super().transform(results)
        if 'boxes' in results:
            results['gt_bboxes'] = results['boxes'].copy()
        return results

    def _load_seg_map(self, results: dict) -> None:
        if results.get('segmentation') is None:
            super()._load_seg_map(results)
            return
        where = f'{results.get("img_path")} (ann_id {results.get("ann_id")})'
        height, width = results['height'], results['width']
        found_hw = tuple(results.get('ori_shape', (height, width))[:2])
        if found_hw != (height, width):
            raise ValueError(
                f'{where}: the image has {found_hw[0]} x {found_hw[1]} pixels (H x W), but its '
                f'annotation says {height} x {width}'
            )
        try:
            rle = segmentation_to_rle(results['segmentation'], height, width)
        except (ValueError, TypeError) as error:
            raise ValueError(f'{where}: the mask cannot be read: {error}') from error
        # pycocotools fills columns; OpenCV turns them into rows in an eighth of NumPy's time.
        results['gt_seg_map'] = cv2.transpose(coco_mask.decode(rle).T)
        results['seg_fields'].append('gt_seg_map')
