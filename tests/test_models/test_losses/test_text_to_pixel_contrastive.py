"""Text-to-pixel contrastive loss on cases worked out by hand, then properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmetris.models import TextToPixelContrastiveLoss
from mmetris.registry import MODELS

# Logit z = log(3) means probability 3/4.
LOG3 = math.log(3)


def masks(rows):
    return torch.tensor(rows, dtype=torch.uint8)[None, None]


def test_by_hand():
    """One target pixel at probability 3/4, one background pixel at 3/4, two at 1/2."""
    logits = torch.tensor([[[[LOG3, LOG3], [0.0, 0.0]]]])
    expected = (-math.log(3 / 4) - math.log(1 / 4) - 2 * math.log(1 / 2)) / 4
    assert TextToPixelContrastiveLoss()(logits, masks([[1, 0], [0, 1]])).item() == pytest.approx(expected)


def test_ignored_pixels_count_neither_in_the_sum_nor_in_the_mean():
    logits = torch.tensor([[[[LOG3, 50.0], [0.0, -50.0]]]])
    expected = (-math.log(3 / 4) - math.log(1 / 2)) / 2
    assert TextToPixelContrastiveLoss()(logits, masks([[1, 255], [0, 255]])).item() == pytest.approx(expected)


def test_mean_is_over_pixels_of_the_batch_not_over_samples():
    logits = torch.zeros(2, 1, 1, 2)
    logits[0, 0, 0, 0] = LOG3
    target = torch.tensor([[[[1, 255]]], [[[0, 1]]]])
    expected = (-math.log(3 / 4) - 2 * math.log(1 / 2)) / 3
    assert TextToPixelContrastiveLoss()(logits, target).item() == pytest.approx(expected)


def test_all_ignored_is_zero_with_a_zero_gradient():
    logits = torch.full((1, 1, 2, 2), 3.0, requires_grad=True)
    loss = TextToPixelContrastiveLoss()(logits, masks([[255, 255], [255, 255]]))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_mask_is_resized_to_the_nearest_pixel():
    """A 2x2 grid over a 4x4 mask reads every second pixel, starting with the first."""
    target = masks([[1, 9, 0, 9], [9, 9, 9, 9], [255, 9, 1, 9], [9, 9, 9, 9]])
    logits = torch.tensor([[[[LOG3, 0.0], [7.0, LOG3]]]])
    expected = (-2 * math.log(3 / 4) - math.log(1 / 2)) / 3
    assert TextToPixelContrastiveLoss()(logits, target).item() == pytest.approx(expected)


def test_gradient_is_probability_minus_target_over_the_count():
    logits = torch.tensor([[[[LOG3, LOG3], [0.0, 0.0]]]], requires_grad=True)
    TextToPixelContrastiveLoss()(logits, masks([[1, 0], [0, 255]])).backward()
    assert torch.allclose(logits.grad, torch.tensor([[[[-1 / 12, 1 / 4], [1 / 6, 0.0]]]]))


def test_options():
    logits, target = torch.zeros(1, 1, 1, 2), torch.tensor([[[1, 7]]])
    loss = MODELS.build(dict(type='TextToPixelContrastiveLoss', loss_weight=2.0, ignore_index=7, loss_name='loss_mask'))
    assert loss.loss_name == 'loss_mask'
    assert loss(logits, target).item() == pytest.approx(2 * math.log(2))
    assert loss(logits, torch.tensor([[[1, 255]]]), ignore_index=255).item() == pytest.approx(2 * math.log(2))
    weight = torch.tensor([[[[3.0, 1.0]]]])
    assert loss(logits, torch.tensor([[[1, 0]]]), weight=weight).item() == pytest.approx(2 * 2 * math.log(2))


def test_extreme_and_half_precision_logits_stay_finite():
    for logits in (torch.tensor([[[[1e4, -1e4]]]]), torch.tensor([[[[6e4, -6e4]]]], dtype=torch.float16)):
        logits.requires_grad_()
        loss = TextToPixelContrastiveLoss()(logits, torch.tensor([[[0, 1]]]))
        loss.backward()
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(
    ('logits', 'target'),
    [((1, 2, 4, 4), (1, 1, 4, 4)), ((2, 1, 4, 4), (1, 1, 4, 4)), ((1, 1, 4, 4), (1, 3, 4, 4)), ((4, 4), (1, 4, 4))],
)
def test_wrong_shapes_are_named(logits, target):
    with pytest.raises(ValueError, match='logits must be'):
        TextToPixelContrastiveLoss()(torch.zeros(logits), torch.zeros(target))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), height=st.integers(1, 5), width=st.integers(1, 5))
def test_ignoring_a_sample_equals_leaving_it_out(seed, height, width):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 1, height, width, generator=generator)
    target = torch.randint(0, 2, (3, 1, height, width), generator=generator)
    loss = TextToPixelContrastiveLoss()
    without = loss(logits[:2], target[:2])
    target[2] = 255
    assert loss(logits, target).item() == pytest.approx(without.item(), rel=1e-5)
    assert loss(logits, target) >= 0
