"""From logits on the head's grid to masks of the original images (ETRIS, Sec. 4.2 "Implementation Details")."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.nn import functional as F

from mmetris.utils.letterbox import LetterboxGeometry, undo_letterbox
from mmetris.utils.shapes import hw_of

_FLIP_AXES = dict(horizontal=(-1,), vertical=(-2,), diagonal=(-1, -2))


def at_input_size(
    values: Tensor, input_hw: tuple[int, int], corner_aligned: bool = False, mode: str = 'bicubic'
) -> Tensor:
    """Enlarge a map from the grid of the logits to the size of the network's input.

    The loss compares cell i with pixel i * stride ("nearest", text-to-pixel loss), so that is where its value belongs.

    Args:
        values: (B, C, h, w).
        input_hw: Size (H, W) of the input.
        corner_aligned: Whether the outermost cells go to the outermost pixels instead, as in the released code: masks
            then drift by up to stride - 1 pixels towards the lower right, which small images feel. Defaults to False.
        mode: Interpolation. Defaults to ``'bicubic'``.

    Returns:
        (B, C, H, W).
    """
    if corner_aligned:
        return F.interpolate(values, size=input_hw, mode=mode, align_corners=True)
    grid_hw = values.shape[-2:]
    # Strides need not be whole: those of patches of 14 pixels are 3.5.
    reached = [(cells - 1) * size // cells + 1 for cells, size in zip(grid_hw, input_hw)]
    values = F.interpolate(values, size=reached, mode=mode, align_corners=True)
    return F.pad(values, (0, input_hw[1] - reached[1], 0, input_hw[0] - reached[0]), mode='replicate')


def undo_transforms(prob: Tensor, metainfo: dict, align_corners: bool = False) -> Tensor:
    """Bring a map of the network's input back to the original image: padding, flip, letterbox or resizing.

    Args:
        prob: (1, 1, H, W).
        metainfo: Meta information of the sample.
        align_corners: Corner rule of the resizing that was no letterbox. Defaults to False.

    Returns:
        (1, 1, H', W').
    """
    left, right, top, bottom = metainfo.get('img_padding_size', metainfo.get('padding_size', (0, 0, 0, 0)))
    height, width = prob.shape[-2:]
    prob = prob[..., top : height - bottom, left : width - right]
    if metainfo.get('flip'):
        prob = prob.flip(_FLIP_AXES[metainfo['flip_direction']])
    if 'ori_shape' not in metainfo:
        return prob
    ori_hw = tuple(metainfo['ori_shape'][:2])
    if 'letterbox' in metainfo:
        return undo_letterbox(prob, LetterboxGeometry(*metainfo['letterbox']), hw_of(prob), ori_hw)
    return F.interpolate(prob, size=ori_hw, mode='bilinear', align_corners=align_corners)


def predict_masks(
    logits: Tensor,
    data_samples: Sequence[SegDataSample] | None,
    threshold: float,
    input_hw: tuple[int, int] | None = None,
    corner_aligned: bool = False,
    align_corners: bool = False,
) -> list[SegDataSample]:
    """Complete samples by their masks: sigmoid, undo padding, flip and resizing, then the threshold.

    Args:
        logits: (B, 1, h, w).
        data_samples: One for each row, completed in place. None: new ones, with masks of the size of the input.
        threshold: Probability above which a pixel is inside.
        input_hw: Size of the network's input. Defaults to None: that of the logits.
        corner_aligned: See :func:`at_input_size`.
        align_corners: See :func:`undo_transforms`.

    Returns:
        The samples, with ``pred_sem_seg`` (1, H, W), 1 inside the mask, and ``seg_logits`` (1, H, W). Unlike MMSeg,
        which keeps probabilities under that name when there is one channel, these are logits: MMSeg's test-time
        augmentation applies the sigmoid itself.
    """
    probs = logits.float().sigmoid()
    if input_hw is not None:
        probs = at_input_size(probs, input_hw, corner_aligned)
    if data_samples is None:
        data_samples = [SegDataSample() for _ in probs]
    for prob, sample in zip(probs, data_samples, strict=True):
        prob = undo_transforms(prob.unsqueeze(0), sample.metainfo, align_corners).clamp(0, 1).squeeze(0)
        sample.seg_logits = PixelData(data=torch.logit(prob, eps=1e-6))
        sample.pred_sem_seg = PixelData(data=(prob > threshold).to(torch.uint8))
    return list(data_samples)


def empty_without_target(sample: SegDataSample, score: float, threshold: float) -> None:
    """Note a no-target score in a sample, and empty its mask where the score is at or above the threshold.

    Args:
        sample: It has ``pred_sem_seg``; its ``seg_logits`` stay as they are.
        score: 0..1.
        threshold: 0..1.
    """
    sample.no_target_score, sample.pred_no_target = score, score >= threshold
    sample.set_metainfo(dict(no_target_threshold=threshold))
    if sample.pred_no_target:
        sample.pred_sem_seg.data = torch.zeros_like(sample.pred_sem_seg.data)
