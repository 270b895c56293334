"""Attention with dropout on CPUs: torch's attention over what its own draw kept."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from mmetris.models.layers import dropout_attention
from tests.toy import randn

PADDING = ~torch.tensor([[False] * 5, [False] * 3 + [True] * 2])[:, None, None]  # True at keys to read
CAUSAL = torch.full((5, 5), float('-inf')).triu(1)
MASKS = dict(
    none=None, padding=PADDING, causal=CAUSAL, flags=CAUSAL == 0, both=CAUSAL.masked_fill(~PADDING, -torch.inf)
)
attend = dropout_attention.DropoutAttention.apply


@pytest.fixture(params=[5, 2], ids=['all queries at once', 'two at a time'])
def rows(request, monkeypatch):
    """Queries of (2, 2, 5, 4) that attend at a time."""
    monkeypatch.setattr(dropout_attention, 'WEIGHTS_AT_ONCE', 2 * 2 * 5 * request.param)
    return request.param


def inputs(dtype=torch.float64):
    return [randn(2, 2, 5, 4, seed=seed).to(dtype).requires_grad_() for seed in range(3)]


@pytest.mark.parametrize('name', MASKS)
def test_without_dropout_output_and_gradients_are_torchs(name, rows):
    mask = MASKS[name] if MASKS[name] is None or MASKS[name].dtype == torch.bool else MASKS[name].double()
    results = []
    for call in (lambda *heads: attend(*heads, mask, 0.0), lambda *heads: scaled_dot_product_attention(*heads, mask)):
        heads = inputs()
        out = call(*heads)
        results.append((out, torch.autograd.grad((out * randn(*out.shape, seed=7)).sum(), heads)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize('name', MASKS)
def test_gradients_are_those_of_the_draw(name, rows):
    mask = MASKS[name] if MASKS[name] is None or MASKS[name].dtype == torch.bool else MASKS[name].double()

    def seeded(*heads):
        torch.manual_seed(0)
        return attend(*heads, mask, 0.5)

    assert torch.autograd.gradcheck(seeded, inputs())


@pytest.mark.parametrize('name', MASKS)
def test_what_is_kept_is_right_on_average(name):
    """With values of 1 an output is the sum of the weights kept; on average that is 1."""
    query, key, _ = (tensor.repeat(2000, 1, 1, 1) for tensor in inputs(torch.float32))
    mask = MASKS[name]
    if mask is not None and mask.ndim == 4:
        mask = mask.repeat(2000, 1, 1, 1)
    torch.manual_seed(0)
    kept = attend(query, key, torch.ones_like(query), mask, 0.5).unflatten(0, (2000, 2))
    assert kept.std(0).amax() > 0.3
    torch.testing.assert_close(kept.mean(0), torch.ones(2, 2, 5, 4), rtol=0, atol=0.15)


@pytest.mark.parametrize('dropout', [0.1, 0.5])
def test_the_share_of_dropped_weights_is_the_one_asked_for(dropout):
    torch.manual_seed(0)
    equal_scores = torch.zeros(1, 1, 300, 4), torch.zeros(1, 1, 400, 4)
    kept = attend(*equal_scores, torch.eye(400)[None, None], None, dropout)
    values, counts = kept.unique(return_counts=True)
    assert len(values) == 2 and values[0] == 0
    assert values[1] == pytest.approx(1 / 400 / (1 - dropout), rel=1e-3)
    assert counts[0] / counts.sum() == pytest.approx(dropout, abs=0.01)


def test_nearly_all_weights_may_be_dropped():
    heads = inputs()
    out = attend(*heads, None, 0.9999999)
    assert torch.isfinite(out).all() and all(grad.isfinite().all() for grad in torch.autograd.grad(out.sum(), heads))


def test_bfloat16_in_and_out(rows):
    heads, exact = inputs(torch.bfloat16), inputs()
    results = []
    for group in (heads, exact):
        torch.manual_seed(0)
        out = attend(*group, None, 0.3)
        results.append([out, *torch.autograd.grad(out.sum(), group)])
    assert {tensor.dtype for tensor in results[0]} == {torch.bfloat16}
    for one, other in zip(*results):
        torch.testing.assert_close(one.double(), other, rtol=0.05, atol=0.05)
