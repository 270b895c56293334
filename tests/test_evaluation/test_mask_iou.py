"""Overlap counts and the three scores: worked out by hand, then against a pixel-by-pixel computation."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mmetris.evaluation.functional import (
    intersection_and_union,
    mean_iou,
    overall_iou,
    precision_at,
    sample_iou,
)

deterministic = settings(derandomize=True, deadline=None, max_examples=60, database=None)


def masks(elements):
    """Lists of (prediction, ground truth) pairs, each pair of its own size."""
    pair = npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7).flatmap(
        lambda shape: st.tuples(
            npst.arrays(np.uint8, shape, elements=st.sampled_from([0, 1])),
            npst.arrays(np.uint8, shape, elements=st.sampled_from(elements)),
        )
    )
    return st.lists(pair, min_size=1, max_size=8)


def brute_force_overlap(pred, target):
    """The same counts with Python loops over pixels."""
    pixels = [(int(p), int(t)) for p, t in zip(pred.flat, target.flat) if t != 255]
    return sum(p == 1 and t == 1 for p, t in pixels), sum(p == 1 or t == 1 for p, t in pixels)


def overlaps_of(pairs):
    counts = [intersection_and_union(torch.from_numpy(pred), torch.from_numpy(target)) for pred, target in pairs]
    return torch.tensor(counts).T


def test_a_case_counted_by_hand():
    pred = torch.tensor([[1, 1, 0], [0, 1, 0]])
    target = torch.tensor([[1, 0, 0], [0, 1, 1]])
    assert intersection_and_union(pred, target) == (2, 4)


def test_ignored_pixels_count_neither_in_the_intersection_nor_in_the_union():
    pred = torch.tensor([[1, 1, 1, 0]], dtype=torch.uint8)
    target = torch.tensor([[1, 255, 0, 255]], dtype=torch.uint8)
    assert intersection_and_union(pred, target) == (1, 2)
    assert intersection_and_union(pred, target, ignore_index=7) == (2, 4)


@pytest.mark.parametrize('dtype', [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_the_type_of_the_masks_changes_nothing(dtype):
    pred, target = torch.tensor([[1, 1, 0]]), torch.tensor([[0, 1, 1]])
    assert intersection_and_union(pred.to(dtype), target.to(dtype)) == (1, 3)


def test_masks_of_different_shape_are_refused():
    with pytest.raises(ValueError, match=r'\(2, 3\) and \(3, 2\)'):
        intersection_and_union(torch.zeros(2, 3), torch.zeros(3, 2))


def test_an_empty_prediction_of_an_empty_ground_truth_has_iou_zero():
    intersection, union = intersection_and_union(torch.zeros(2, 2), torch.zeros(2, 2))
    assert (intersection, union) == (0, 0)
    intersections, unions = torch.tensor([intersection, 3]), torch.tensor([union, 3])
    assert sample_iou(intersections, unions).tolist() == [0.0, 1.0]
    assert mean_iou(intersections, unions) == 0.5
    assert overall_iou(intersections, unions) == 1.0
    assert overall_iou(intersections[:1], unions[:1]) == 0.0
    assert precision_at(intersections, unions, 0.5) == 0.5


def test_scores_of_two_samples_computed_by_hand():
    # IoU 1/10 on a small object and 90/100 on a large one.
    intersections, unions = torch.tensor([1, 90]), torch.tensor([10, 100])
    assert overall_iou(intersections, unions) == pytest.approx(91 / 110)
    assert mean_iou(intersections, unions) == pytest.approx(0.5)
    assert precision_at(intersections, unions, 0.5) == 0.5


@pytest.mark.parametrize('tenths', [5, 6, 7, 8, 9])
def test_an_iou_equal_to_the_threshold_is_not_above_it(tenths):
    for size in (10, 30, 70, 1110):
        intersections, unions = torch.tensor([tenths * size // 10]), torch.tensor([size])
        assert precision_at(intersections, unions, float(f'0.{tenths}')) == 0.0
        assert precision_at(intersections + 1, unions, float(f'0.{tenths}')) == 1.0


def test_counts_beyond_single_precision_stay_exact():
    # A float32 sum loses the last pixel.
    intersections, unions = torch.tensor([2**24, 1]), torch.tensor([2**25, 1])
    assert overall_iou(intersections, unions) == (2**24 + 1) / (2**25 + 1)


def test_the_order_of_many_samples_changes_no_bit_of_the_mean():
    unions = torch.arange(1, 5000)
    intersections = unions // 3
    order = torch.randperm(len(unions), generator=torch.Generator().manual_seed(0))
    assert mean_iou(intersections[order], unions[order]) == mean_iou(intersections, unions)
    assert sample_iou(intersections[order], unions[order]).mean() != sample_iou(intersections, unions).mean()


def test_averages_over_nothing_are_refused():
    nothing = torch.tensor([], dtype=torch.long)
    with pytest.raises(ValueError, match='no sample'):
        mean_iou(nothing, nothing)
    with pytest.raises(ValueError, match='no sample'):
        precision_at(nothing, nothing, 0.5)
    with pytest.raises(ValueError, match='one length'):
        sample_iou(torch.tensor([1, 2]), torch.tensor([1]))


@deterministic
@given(masks([0, 1, 255]))
def test_scores_equal_a_pixel_by_pixel_computation(pairs):
    counts = [brute_force_overlap(pred, target) for pred, target in pairs]
    ious = [i / u if u else 0.0 for i, u in counts]
    intersections, unions = overlaps_of(pairs)
    assert list(zip(intersections.tolist(), unions.tolist())) == counts
    total = sum(u for _, u in counts)
    assert overall_iou(intersections, unions) == pytest.approx(sum(i for i, _ in counts) / total if total else 0.0)
    assert mean_iou(intersections, unions) == pytest.approx(sum(ious) / len(ious))
    for threshold in (0.0, 0.3, 0.5, 0.9):
        expected = sum(iou > threshold for iou in ious) / len(ious)
        assert precision_at(intersections, unions, threshold) == expected


@deterministic
@given(masks([0, 1, 255]), st.randoms(use_true_random=False))
def test_scores_are_fractions_and_the_order_of_samples_changes_no_bit(pairs, rng: random.Random):
    shuffled = rng.sample(pairs, len(pairs))
    for score in (overall_iou, mean_iou, lambda i, u: precision_at(i, u, 0.5)):
        value = score(*overlaps_of(pairs))
        assert 0 <= value <= 1
        assert score(*overlaps_of(shuffled)) == value


@deterministic
@given(masks([0, 1, 255]))
def test_overall_and_mean_iou_of_one_sample_are_the_same(pairs):
    overlap = overlaps_of(pairs[:1])
    assert overall_iou(*overlap) == mean_iou(*overlap)


@deterministic
@given(masks([0, 1]))
def test_a_perfect_prediction_scores_one_and_the_roles_of_the_masks_are_symmetric(pairs):
    for pred, target in pairs:
        pred, target = torch.from_numpy(pred), torch.from_numpy(target)
        assert intersection_and_union(pred, target) == intersection_and_union(target, pred)
        foreground = int(target.sum())
        assert intersection_and_union(target, target) == (foreground, foreground)
