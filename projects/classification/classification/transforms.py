"""Steps of a pipeline for classification, under the names and arguments that they have in MMPretrain."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mmcv
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import BaseDataElement
from torch import Tensor

from mmetris.registry import TRANSFORMS

META_KEYS = ('sample_idx', 'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
_CROP_TRIES = 10


class ClassDataSample(BaseDataElement):
    """An image's class, true and predicted.

    Fields: ``gt_label`` (1,) int64; ``pred_label`` (1,), ``pred_score`` (K,) probabilities, ``pred_logits`` (K,), and
    ``zero_shot_logits`` (K,) of zero-shot CLIP.
    """

    gt_label: Tensor
    pred_label: Tensor
    pred_score: Tensor
    pred_logits: Tensor
    zero_shot_logits: Tensor


@TRANSFORMS.register_module()
class ResizeEdge(BaseTransform):
    """Scale an image so that one edge has a length; with Pillow's bicubic filter it is what CLIP does first.

    Args:
        scale: Length of the edge in pixels.
        edge: ``'short'`` (default) or ``'long'``. The other one is cut to whole pixels, as torchvision does it.
        backend: ``'pillow'`` (default), whose filters do not alias, or ``'cv2'``.
        interpolation: Defaults to ``'bicubic'``.

    Raises:
        ValueError: If the edge is unknown or ``scale`` is not positive.
    """

    def __init__(
        self, scale: int, edge: str = 'short', backend: str = 'pillow', interpolation: str = 'bicubic'
    ) -> None:
        if edge not in ('short', 'long') or scale < 1:
            raise ValueError(f"edge={edge!r} must be 'short' or 'long', scale={scale} positive")
        self.scale, self.edge, self.backend, self.interpolation = scale, edge, backend, interpolation

    def transform(self, results: dict) -> dict:
        """Scale ``img``."""
        height, width = results['img'].shape[:2]
        edge = min(height, width) if self.edge == 'short' else max(height, width)
        size_wh = tuple(max(1, self.scale * side // edge) for side in (width, height))
        results['img'] = mmcv.imresize(results['img'], size_wh, interpolation=self.interpolation, backend=self.backend)
        results.update(img_shape=results['img'].shape[:2], scale_factor=(size_wh[0] / width, size_wh[1] / height))
        return results


@TRANSFORMS.register_module()
class RandomResizedCrop(BaseTransform):
    """Cut out a random part of an image and scale it, as Inception was trained.

    Args:
        scale: Size of the result, (H, W) or a number for a square.
        crop_ratio_range: Share of the image's area. Defaults to (0.08, 1).
        aspect_ratio_range: Width over height. Defaults to (3 / 4, 4 / 3).
        backend: See :class:`ResizeEdge`.
        interpolation: See there.

    Raises:
        ValueError: If a range is empty or not positive.
    """

    def __init__(
        self,
        scale: int | Sequence[int],
        crop_ratio_range: tuple[float, float] = (0.08, 1.0),
        aspect_ratio_range: tuple[float, float] = (3 / 4, 4 / 3),
        backend: str = 'pillow',
        interpolation: str = 'bicubic',
    ) -> None:
        for name, (low, high) in (
            ('crop_ratio_range', crop_ratio_range),
            ('aspect_ratio_range', aspect_ratio_range),
        ):
            if not 0 < low <= high:
                raise ValueError(f'{name}={(low, high)} must be two positive numbers, the lower one first')
        self.scale_hw = (scale, scale) if isinstance(scale, int) else tuple(scale)
        self.crop_ratio_range, self.aspect_ratio_range = crop_ratio_range, aspect_ratio_range
        self.backend, self.interpolation = backend, interpolation

    def draw(self, height: int, width: int) -> tuple[int, int, int, int]:
        """A part of an image of that size in pixels: top, left, height, width."""
        for _ in range(_CROP_TRIES):
            area = height * width * np.random.uniform(*self.crop_ratio_range)
            aspect = math.exp(np.random.uniform(*np.log(self.aspect_ratio_range)))
            crop_h, crop_w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
            if 0 < crop_h <= height and 0 < crop_w <= width:
                top = np.random.randint(height - crop_h + 1)
                return top, np.random.randint(width - crop_w + 1), crop_h, crop_w
        side = min(height, width)
        return (height - side) // 2, (width - side) // 2, side, side

    def transform(self, results: dict) -> dict:
        """Cut ``img`` and scale it."""
        top, left, height, width = self.draw(*results['img'].shape[:2])
        part = results['img'][top : top + height, left : left + width]
        results['img'] = mmcv.imresize(
            part, self.scale_hw[::-1], interpolation=self.interpolation, backend=self.backend
        )
        results['img_shape'] = results['img'].shape[:2]
        return results


@TRANSFORMS.register_module()
class PackInputs(BaseTransform):
    """Pack ``inputs`` (3, H, W) and a :class:`ClassDataSample` with ``gt_label``, where the data have labels.

    Args:
        meta_keys: What is kept of a sample besides. Defaults to its place, sizes and flip.
    """

    def __init__(self, meta_keys: Sequence[str] = META_KEYS) -> None:
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: dict) -> dict:
        """Pack."""
        sample = ClassDataSample(metainfo={key: results[key] for key in self.meta_keys if key in results})
        if 'gt_label' in results:
            sample.gt_label = torch.tensor([results['gt_label']])
        image = torch.from_numpy(np.ascontiguousarray(results['img'].transpose(2, 0, 1)))
        return dict(inputs=image, data_samples=sample)
