"""Fit an image into the input size and bring a prediction back: scale to fit, centre, fill the border.

Input size and original size are (H, W) pairs named ``input_hw`` and ``ori_hw``; points are (x, y) with pixel
centres at integers. A point of the original image lands at ``scale * (x, y) + (left, top)``. Everything here
agrees with the released code of ETRIS.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# CLIP's mean colour, in OpenCV's order of channels and 0..255: a border of this colour is zero after
# normalisation.
CLIP_MEAN_BGR = (0.40821073 * 255, 0.4578275 * 255, 0.48145466 * 255)


class LetterboxGeometry(NamedTuple):
    """Where the original image lies in the letterboxed one.

    Attributes:
        scale: Input pixels per original pixel, the same for both axes.
        left: x of the original's first column in the letterboxed image, in pixels; may be a fraction.
        top: y of its first row.
    """

    scale: float
    left: float
    top: float

    def matrix(self) -> np.ndarray:
        """The affine map (2, 3) from points (x, y, 1) of the original image to the letterboxed one."""
        return np.array([[self.scale, 0, self.left], [0, self.scale, self.top]], dtype=np.float64)


def letterbox_geometry(ori_hw: tuple[int, int], input_hw: tuple[int, int]) -> LetterboxGeometry:
    """Largest scale at which the image fits, and the offsets that centre it.

    Args:
        ori_hw: Size of the original image in pixels.
        input_hw: Size to fit it in.

    Raises:
        ValueError: If a size is not positive.
    """
    (ori_h, ori_w), (input_h, input_w) = ori_hw, input_hw
    if min(ori_h, ori_w, input_h, input_w) <= 0:
        raise ValueError(f'Sizes must be positive, but the image has {tuple(ori_hw)} and the input {tuple(input_hw)}')
    scale = min(input_h / ori_h, input_w / ori_w)
    return LetterboxGeometry(scale, (input_w - ori_w * scale) / 2, (input_h - ori_h * scale) / 2)


def letterbox_image(
    image: np.ndarray, input_hw: tuple[int, int], border_value: tuple[float, ...] = CLIP_MEAN_BGR
) -> np.ndarray:
    """Letterbox an image by bicubic interpolation.

    Args:
        image: (H, W, 3) or (H, W), 0..255. Channels may stand in any order that ``border_value`` follows.
        input_hw: Size of the result.
        border_value: Colour around the image, 0..255. Defaults to CLIP's mean in BGR.

    Returns:
        Image of size ``input_hw``, same type and channels.
    """
    matrix = letterbox_geometry(image.shape[:2], input_hw).matrix()
    return cv2.warpAffine(image, matrix, tuple(input_hw[::-1]), flags=cv2.INTER_CUBIC, borderValue=border_value)


def letterbox_mask(
    mask: np.ndarray,
    input_hw: tuple[int, int],
    border_value: int = 0,
    interpolation: str = 'linear',
    ignore_index: int = 255,
) -> np.ndarray:
    """Letterbox a mask or a label map.

    Args:
        mask: (H, W) bool, or integer labels where ``ignore_index`` marks pixels without a truth.
        input_hw: Size of the result.
        border_value: Label around the image. Defaults to 0, so that the model learns to leave the border
            empty.
        interpolation: 'linear' for masks of 0 and 1: a pixel is 1 where the bilinear value is at least one
            half, which keeps outlines where they are. 'nearest' for any label map. Defaults to 'linear'.
        ignore_index: Label that is carried over by nearest neighbour in both cases. Defaults to 255.

    Returns:
        Mask of size ``input_hw`` and of the same type, with values of the input and the border only.

    Raises:
        ValueError: If ``interpolation`` is neither, a label is not in 0..255, or 'linear' meets labels besides
            0, 1 and ``ignore_index``.
    """
    if interpolation not in ('linear', 'nearest'):
        raise ValueError(f"interpolation must be 'linear' or 'nearest', but is {interpolation!r}")
    matrix = letterbox_geometry(mask.shape[:2], input_hw).matrix()
    labels = mask.astype(np.uint8)
    if mask.dtype not in (np.uint8, bool) and (labels != mask).any():
        raise ValueError(f'Labels must be whole numbers from 0 to 255, but this mask has {mask.min()} to {mask.max()}')

    def warp(values: np.ndarray, flags: int, border: int) -> np.ndarray:
        return cv2.warpAffine(values, matrix, tuple(input_hw[::-1]), flags=flags, borderValue=border)

    if interpolation == 'nearest':
        return warp(labels, cv2.INTER_NEAREST, border_value).astype(mask.dtype)

    ignored = labels == ignore_index
    if ((labels > 1) & ~ignored).any():
        raise ValueError(
            f'Linear interpolation is for masks of 0 and 1 (and {ignore_index} for ignored pixels), '
            f"but this one has {np.unique(labels).tolist()}; use interpolation='nearest' for label maps"
        )
    result = warp((labels == 1) * np.uint8(255), cv2.INTER_LINEAR, 255 * int(border_value == 1)) >= 128
    result = result.astype(np.uint8)
    if border_value == ignore_index or ignored.any():
        still_ignored = warp(ignored.astype(np.uint8), cv2.INTER_NEAREST, int(border_value == ignore_index)) == 1
        result[still_ignored] = ignore_index
    return result.astype(mask.dtype)


def undo_letterbox(
    prob: Tensor, geometry: LetterboxGeometry, input_hw: tuple[int, int], ori_hw: tuple[int, int]
) -> Tensor:
    """Bring maps predicted for a letterboxed image back to the original's size.

    The map is first resized to ``input_hw`` (bicubic, corners aligned) and then sampled (bicubic, zero
    outside) where the original's pixels lie. Bicubic values can leave the range of the input by a little.

    Args:
        prob: (B, C, h, w), probabilities of any resolution; images of one batch share the geometry.
        geometry: What :func:`letterbox_geometry` gave for the image.
        input_hw: Size of the letterboxed image.
        ori_hw: Size of the original image.

    Returns:
        (B, C, H, W) on the same device, of the same floating type.
    """
    resized = prob
    if tuple(prob.shape[-2:]) != tuple(input_hw):
        resized = F.interpolate(prob, input_hw, mode='bicubic', align_corners=True)
    scale, left, top = geometry
    rows = torch.arange(ori_hw[0], device=prob.device) * scale + top
    columns = torch.arange(ori_hw[1], device=prob.device) * scale + left
    # grid_sample counts from -1 at the centre of the first pixel to 1 at the centre of the last; a single
    # pixel is its own centre.
    rows = 2 * rows / max(input_hw[0] - 1, 1) - 1
    columns = 2 * columns / max(input_hw[1] - 1, 1) - 1
    grid = torch.stack([columns.expand(ori_hw[0], -1), rows[:, None].expand(-1, ori_hw[1])], dim=-1)
    grid = grid.to(prob.dtype).expand(len(prob), -1, -1, -1)
    return F.grid_sample(resized, grid, mode='bicubic', padding_mode='zeros', align_corners=True)
