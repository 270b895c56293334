"""Interactor."""

import pytest
import torch

from mmetris.models.layers.interactor import Interactor
from tests.toy import randn


def test_each_step_keeps_the_shape_and_ends_normalised():
    interactor = Interactor(8, num_heads=2).eval()
    features = randn(2, 5, 8)
    for stepped in (
        interactor.attend_self(features),
        interactor.attend_other(features, randn(2, 3, 8)),
        interactor.feed_forward(features),
    ):
        assert stepped.shape == (2, 5, 8)
        torch.testing.assert_close(stepped.mean(-1), torch.zeros(2, 5), atol=1e-5, rtol=0)


@pytest.mark.parametrize('step', ['attend_self', 'attend_other'])
def test_masked_keys_change_nothing(step):
    interactor = Interactor(8, num_heads=2).eval()
    features = randn(1, 4, 8)
    mask = torch.tensor([[False, False, True, True]])
    changed = features.clone()
    changed[:, 2:] += 3
    if step == 'attend_self':
        results = [interactor.attend_self(keys, mask)[:, :2] for keys in (features, changed)]
    else:
        results = [interactor.attend_other(randn(1, 5, 8, seed=1), keys, mask) for keys in (features, changed)]
    torch.testing.assert_close(*results)


def test_multiply_lets_attention_scale_the_query():
    interactor = Interactor(8, num_heads=2, combine='multiply', self_attention=False, ffn_dims=None).eval()
    assert [name for name, _ in interactor.named_children() if name not in ('dropout', 'cross_attn')] == []
    zero_query = torch.zeros(1, 4, 8)
    assert interactor.attend_other(zero_query, randn(1, 3, 8)).abs().sum() == 0
    assert interactor.attend_self(zero_query) is zero_query and interactor.feed_forward(zero_query) is zero_query


@pytest.mark.parametrize(
    'kwargs, message', [(dict(num_heads=3), 'not divisible by num_heads=3'), (dict(combine='max'), "combine='max'")]
)
def test_bad_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Interactor(8, **kwargs)
