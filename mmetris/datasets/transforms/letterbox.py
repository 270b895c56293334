"""Letterbox as a step of a pipeline."""

from __future__ import annotations

from collections.abc import Sequence

from mmcv.transforms import BaseTransform

from ...registry import TRANSFORMS
from ...utils.letterbox import CLIP_MEAN_BGR, letterbox_geometry, letterbox_image, letterbox_mask
from ..boxes import letterbox_boxes


@TRANSFORMS.register_module()
class Letterbox(BaseTransform):
    """Scale the image to fit the input size, centre it and fill the border, as ETRIS does for its 416 x 416 input.

    What it did is kept as ``letterbox``, so that the segmentor can bring its prediction back to the original
    size. Masks and boxes that are loaded already are letterboxed too, as training needs; in a test pipeline
    ``LoadAnnotations`` comes after, so that the truth keeps its original size. There, no other step may
    change the geometry before this one.

    Required keys: ``img`` (BGR); optional those in ``seg_fields``, and ``gt_bboxes`` (K, 4). Modified keys: ``img``,
    ``img_shape``, masks, boxes. Added keys: ``pad_shape``, ``scale_factor`` (w, h), ``keep_ratio``, ``letterbox``
    (scale, left, top).

    Args:
        size: (H, W) of the result, or one number for a square. Defaults to 416, ETRIS's input.
        border_value: Colour of the border in the image's order of channels, 0..255. Defaults to CLIP's mean
            in BGR, which is zero after normalisation.
        mask_border: Label of the border in masks. Defaults to 0: the border is known to be empty.
        mask_interpolation: 'linear' for masks of 0 and 1, 'nearest' for label maps of several classes.
            Defaults to 'linear'.

    Raises:
        ValueError: If ``size`` is not positive.
    """

    def __init__(
        self,
        size: int | Sequence[int] = 416,
        border_value: Sequence[float] = CLIP_MEAN_BGR,
        mask_border: int = 0,
        mask_interpolation: str = 'linear',
    ) -> None:
        sides = (size, size) if isinstance(size, int) else tuple(size)
        if len(sides) != 2 or min(sides) <= 0:
            raise ValueError(f'size must be one or two positive numbers (height, width), but is {size}')
        self.size = (sides[0], sides[1])
        self.border_value = tuple(border_value)
        self.mask_border = mask_border
        self.mask_interpolation = mask_interpolation

    def transform(self, results: dict) -> dict:
        """Letterbox the image and the masks loaded so far."""
        geometry = letterbox_geometry(results['img'].shape[:2], self.size)
        results['img'] = letterbox_image(results['img'], self.size, self.border_value)
        for key in results.get('seg_fields', []):
            results[key] = letterbox_mask(results[key], self.size, self.mask_border, self.mask_interpolation)
        if 'gt_bboxes' in results:
            results['gt_bboxes'] = letterbox_boxes(results['gt_bboxes'], geometry)
        results.update(
            img_shape=self.size,
            pad_shape=self.size,
            scale_factor=(geometry.scale, geometry.scale),
            keep_ratio=True,
            letterbox=tuple(geometry),
        )
        return results

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(size={self.size}, border_value={self.border_value}, '
            f'mask_border={self.mask_border}, mask_interpolation={self.mask_interpolation!r})'
        )
