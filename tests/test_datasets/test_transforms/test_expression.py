"""Transforms of the sentence."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmetris.datasets.transforms import FlipExpression, TokenizeExpression
from mmetris.datasets.transforms.expression import swap_sides


def test_tokens_are_added_and_cut_with_eos():
    results = TokenizeExpression(context_length=4)(dict(expression='the left zebra'))
    assert torch.equal(results['tokens'], torch.tensor([49406, 518, 1823, 49407]))
    assert TokenizeExpression()(dict(expression='dog'))['tokens'].shape == (17,)


def test_a_length_without_room_is_refused():
    with pytest.raises(ValueError, match='at least 2'):
        TokenizeExpression(context_length=1)


@pytest.mark.parametrize(
    ('text', 'mirrored'),
    [
        ('the left dog', 'the right dog'),
        ('Right one, not the LEFT one', 'Left one, not the RIGHT one'),
        ('leftmost person 2nd from right', 'rightmost person 2nd from left'),
        ('topleft and bottom right', 'topright and bottom left'),
        ("left's neighbour, right-hand side", "right's neighbour, left-hand side"),
        ('righthand glove', 'lefthand glove'),
        ('bright leftover on the upright chair', 'bright leftover on the upright chair'),
        ('the dog', 'the dog'),
    ],
)
def test_left_and_right_are_exchanged_as_words(text, mirrored):
    assert swap_sides(text) == mirrored


@given(st.lists(st.sampled_from(['left', 'Right', 'LEFT', 'dog', 'bright', 'topleft', 'rightmost', ','])).map(' '.join))
def test_exchanging_twice_changes_nothing(text):
    assert swap_sides(swap_sides(text)) == text


@pytest.mark.parametrize(
    ('flip', 'direction', 'expected'),
    [
        (True, 'horizontal', 'right dog'),
        (True, 'diagonal', 'right dog'),
        (True, 'vertical', 'left dog'),
        (False, None, 'left dog'),
    ],
)
def test_the_sentence_follows_the_flip(flip, direction, expected):
    results = dict(expression='left dog', flip=flip, flip_direction=direction)
    assert FlipExpression()(results)['expression'] == expected


def test_without_any_flip_the_sentence_stays():
    assert FlipExpression()(dict(expression='left dog'))['expression'] == 'left dog'
