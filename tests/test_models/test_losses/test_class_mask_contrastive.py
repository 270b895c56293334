"""Text-to-pixel contrastive loss over class masks."""

import math

import pytest
import torch

from mmetris.models.losses import ClassMaskContrastiveLoss, TextToPixelContrastiveLoss
from tests.toy import randn


def test_by_hand():
    """Two pixels, two classes; all four sigmoids are 3/4 or 1/4, the ignored third pixel counts for nothing."""
    high = math.log(3)
    logits = torch.tensor([[[[high, -high, 99.0]], [[-high, -high, 99.0]]]])
    labels = torch.tensor([[[0, 1, 255]]])
    right, wrong = -math.log(3 / 4), -math.log(1 / 4)
    assert ClassMaskContrastiveLoss()(logits, labels).item() == pytest.approx((3 * right + wrong) / 4)


def test_it_is_the_loss_of_each_class_mask_by_itself():
    logits, labels = randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5), generator=torch.Generator().manual_seed(0))
    apart = [TextToPixelContrastiveLoss()(logits[:, index : index + 1], (labels == index).long()) for index in range(3)]
    torch.testing.assert_close(ClassMaskContrastiveLoss()(logits, labels), sum(apart) / 3)


def test_weights_are_those_of_pixels_and_the_factor_that_of_the_loss():
    logits, labels = randn(1, 2, 2, 2), torch.tensor([[[0, 1], [1, 7]]])
    weight = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    one = ClassMaskContrastiveLoss(loss_weight=3.0)(logits, labels, weight, ignore_index=7)
    alone = ClassMaskContrastiveLoss()(logits[..., :1, :1], labels[..., :1, :1])
    torch.testing.assert_close(one, alone)


def test_where_all_is_ignored_it_is_zero_with_a_gradient():
    logits = randn(1, 2, 2, 2).requires_grad_()
    loss = ClassMaskContrastiveLoss()(logits, torch.full((1, 2, 2), 255))
    loss.backward()
    assert loss == 0 and not logits.grad.any()
