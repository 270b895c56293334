"""Attention: torch's results, without its matrix of weights."""

import copy

import pytest
import torch
from torch import nn

from mmetris.models.layers.attention import Attention, fuse_attention
from tests.toy import randn

PADDING = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
CAUSAL = torch.full((5, 5), float('-inf')).triu(1)
MASKS = dict(
    none=dict(),
    padding=dict(key_padding_mask=PADDING),
    causal=dict(attn_mask=CAUSAL),
    causal_flags=dict(attn_mask=CAUSAL != 0),
    both=dict(key_padding_mask=PADDING, attn_mask=CAUSAL),
    both_flags=dict(key_padding_mask=PADDING, attn_mask=CAUSAL != 0),
)


def pair(**kwargs):
    """torch's attention and ours with the same weights."""
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(8, 2, batch_first=True, **kwargs)
    nn.init.normal_(plain.in_proj_bias)
    return plain, fuse_attention(nn.ModuleList([copy.deepcopy(plain)]))[0]


def results(attention, inputs, **masks):
    """Output, then the gradients of inputs and parameters."""
    inputs = [value.clone().requires_grad_() for value in inputs]
    out = attention(*inputs, need_weights=False, **masks)[0]
    out.square().sum().backward()
    zeros = [torch.zeros_like(value) if value.grad is None else value.grad for value in inputs]
    return [out, *zeros, *(parameter.grad for parameter in attention.parameters())]


def assert_same(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        assert one is not None
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('masks', MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize('training', [True, False])
def test_output_and_gradients_are_torchs(masks, training):
    plain, ours = pair()
    inputs = [randn(2, 5, 8, seed=seed) for seed in range(3)]
    assert_same(results(ours.train(training), inputs, **masks), results(plain.train(training), inputs, **masks))


def test_self_attention_without_gradients_equals_torchs_fast_path():
    plain, ours = pair()
    tokens = randn(2, 5, 8)
    with torch.no_grad():
        expected = plain.eval()(tokens, tokens, tokens, need_weights=False)[0]
        torch.testing.assert_close(ours.eval()(tokens, tokens, tokens)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kdim', [8, 6])
def test_a_single_key_gives_the_same_output_and_gradients_zeros_included(kdim):
    plain, ours = pair(kdim=kdim, vdim=kdim)
    inputs = [randn(2, 5, 8), randn(2, 1, kdim, seed=1), randn(2, 1, kdim, seed=2)]
    assert_same(results(ours, inputs), results(plain, inputs))


def test_a_single_key_computes_no_scores(monkeypatch):
    _, ours = pair()
    monkeypatch.setattr(torch.nn.functional, 'scaled_dot_product_attention', None)
    key = randn(2, 1, 8)
    assert ours(randn(2, 5, 8), key, key)[0].shape == (2, 5, 8)


def test_dropout_of_a_single_keys_weight_is_kept():
    _, ours = pair(dropout=0.5)
    key = randn(2, 1, 8)
    rows = ours.train()(randn(2, 50, 8), key, key)[0]
    assert len(rows[0].unique(dim=0)) > 1
    assert len(ours.eval()(randn(2, 50, 8), key, key)[0][0].unique(dim=0)) == 1


def test_weights_are_given_to_who_asks():
    _, ours = pair()
    tokens = randn(2, 5, 8)
    assert ours(tokens, tokens, tokens, need_weights=True)[1].shape == (2, 5, 5)


def test_only_the_class_is_exchanged():
    plain, ours = pair()
    assert type(ours) is Attention and list(ours.state_dict()) == list(plain.state_dict())


def test_dropout_on_a_cpu_keeps_a_byte_for_each_weight():
    _, ours = pair(dropout=0.5)
    kept = []
    tokens = randn(1, 300, 8).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda t: t):
        out = ours.train()(tokens, tokens, tokens)[0]
    out.sum().backward()
    large = [(tensor.numel(), tensor.element_size()) for tensor in kept if tensor.numel() >= 300 * 300]
    assert large == [(2 * 300 * 300, 1)] and tokens.grad.abs().sum() > 0
