"""Overlap of binary masks and the scores of referring image segmentation: oIoU, mIoU and Pr@X.

All scores here are fractions in [0, 1]; :class:`mmetris.evaluation.RefSegMetric` turns them into percent.

A sample whose prediction and ground truth are both empty has the IoU 0/0. It counts as 0 here, as it does in
the released evaluation of ETRIS, which divides by ``union + 1e-6``: every sentence of RefCOCO refers to
something, so an empty ground truth is a slip of the annotation and no success of the model.
"""

from __future__ import annotations

from torch import Tensor


def intersection_and_union(pred: Tensor, target: Tensor, ignore_index: int = 255) -> tuple[int, int]:
    """Count the pixels in the intersection and in the union of two binary masks.

    Args:
        pred: Predicted mask, bool or integer; every value but 0 is foreground.
        target: Ground truth on the same grid; 0 is background, ``ignore_index`` is left out, every other
            value is foreground.
        ignore_index: Value of ``target`` that marks pixels to leave out of both counts. Defaults to 255, as
            in MMSegmentation.

    Returns:
        Pixels in the intersection and in the union.

    Shape:
        pred and target: any, but the same.

    Raises:
        ValueError: If the shapes differ.
    """
    if pred.shape != target.shape:
        raise ValueError(f'prediction and ground truth differ in shape: {tuple(pred.shape)} and {tuple(target.shape)}')
    target = target.to(pred.device)
    # A bool target has no ignored pixels: True is 1, which differs from 255.
    counted = target != ignore_index
    pred_foreground = (pred != 0) & counted
    target_foreground = (target != 0) & counted
    intersection = (pred_foreground & target_foreground).sum()
    union = (pred_foreground | target_foreground).sum()
    return int(intersection), int(union)


def sample_iou(intersections: Tensor, unions: Tensor) -> Tensor:
    """IoU of each sample; 0 where the union is empty (see the module's first lines).

    Args:
        intersections: Pixels in each sample's intersection.
        unions: Pixels in each sample's union.

    Shape:
        (B,), (B,) -> (B,), float64 so that a ratio like 7/10 equals the threshold written 0.7.

    Raises:
        ValueError: If the two differ in length.
    """
    if intersections.shape != unions.shape or intersections.ndim != 1:
        raise ValueError(
            'intersections and unions must be one-dimensional and of one length, but have '
            f'shapes {tuple(intersections.shape)} and {tuple(unions.shape)}'
        )
    # An empty union has an empty intersection, so 0/1 gives the 0 we want.
    return intersections.double() / unions.double().clamp(min=1)


def overall_iou(intersections: Tensor, unions: Tensor) -> float:
    """oIoU (also cIoU): the sum of all intersections over the sum of all unions, so large objects weigh more.

    Args:
        intersections: Pixels in each sample's intersection.
        unions: Pixels in each sample's union.

    Returns:
        A fraction in [0, 1]; 0 if every union is empty.

    Shape:
        (B,), (B,) -> scalar
    """
    # Integer sums: exact in any order, whereas float32 loses single pixels beyond 16.8 million.
    return int(intersections.long().sum()) / max(int(unions.long().sum()), 1)


def mean_iou(intersections: Tensor, unions: Tensor) -> float:
    """mIoU (also gIoU): the mean of the samples' IoUs. Not MMSegmentation's mIoU, which is a mean over
    classes.

    Args:
        intersections: Pixels in each sample's intersection.
        unions: Pixels in each sample's union.

    Returns:
        A fraction in [0, 1].

    Shape:
        (B,), (B,) -> scalar

    Raises:
        ValueError: If there is no sample.
    """
    return mean_of(sample_iou(intersections, unions))


def mean_of(ious: Tensor) -> float:
    """Mean of the IoUs of samples (B,), whatever their order.

    Raises:
        ValueError: If there is no sample.
    """
    _require_samples(ious)
    # Sorting makes the floating-point sum, and with it the score, independent of the samples' order.
    return float(ious.double().sort().values.mean())


def share_of(samples: Tensor) -> float:
    """Share of samples (B,) that are True.

    Raises:
        ValueError: If there is no sample.
    """
    _require_samples(samples)
    return int(samples.sum()) / len(samples)


def precision_at(intersections: Tensor, unions: Tensor, threshold: float) -> float:
    """Pr@X: the share of samples whose IoU is strictly above a threshold.

    Args:
        intersections: Pixels in each sample's intersection.
        unions: Pixels in each sample's union.
        threshold: X, in [0, 1].

    Returns:
        A fraction in [0, 1].

    Shape:
        (B,), (B,) -> scalar

    Raises:
        ValueError: If there is no sample.
    """
    return share_of(sample_iou(intersections, unions) > threshold)


def _require_samples(intersections: Tensor) -> None:
    if len(intersections) == 0:
        raise ValueError('There is no sample to average over')


__all__ = ['intersection_and_union', 'mean_iou', 'mean_of', 'overall_iou', 'precision_at', 'sample_iou', 'share_of']
