"""Models that differ in one part start with the same weights in the others, where ``init_seed`` is given."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import init_default_scope

from mmetris.registry import MODELS
from tests import toy

NARROW = dict(type='Normal', std=0.5, override=dict(name='kernel_projection'))
# What a fair comparison changes: no Bridger, a wider one, one with initial weights of its own, a tuned encoder.
OTHERS = dict(
    no_bridger=dict(neck=dict(stages=())),
    wider=dict(neck=dict(embed_dims=16)),
    own_init=dict(neck=dict(init_cfg=dict(type='Xavier', layer='Linear'))),
    tuned=dict(backbone=dict(tuning=dict(lora=dict(type='LoRA', rank=2)))),
)


def start(init_seed, seed=0, **changes):
    """A model at the beginning of a training."""
    cfg = toy.model_cfg('vit', decode_head=dict(projector=dict(init_cfg=NARROW)), **changes)
    model = toy.build(dict(cfg, init_seed=init_seed), seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.init_weights()
    return model


def same(one, other):
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(value, right[key]) for key, value in left.items())


@pytest.fixture(scope='module')
def model():
    return start(init_seed=3)


@pytest.mark.parametrize('changes', OTHERS.values(), ids=OTHERS)
def test_the_head_starts_with_the_same_weights(model, changes):
    other = start(init_seed=3, seed=1, **changes)
    assert same(model.decode_head, other.decode_head)
    assert same(model.text_encoder, other.text_encoder)
    assert not same(model, other)


def test_without_it_another_neck_gives_the_head_other_weights():
    assert not same(start(None).decode_head, start(None, **OTHERS['no_bridger']).decode_head)


def test_other_seeds_give_other_weights_and_no_two_parts_draw_the_same(model):
    other = start(init_seed=4)
    assert not same(model.decode_head, other.decode_head) and not same(model.neck, other.neck)
    twice = toy.build(dict(toy.model_cfg('vit'), init_seed=0), 0)
    assert not torch.equal(
        next(p for p in twice.neck.parameters() if p.ndim > 1).flatten()[:8],
        next(p for p in twice.decode_head.parameters() if p.ndim > 1).flatten()[:8],
    )


def test_what_is_drawn_outside_does_not_know_of_it():
    init_default_scope('mmetris')
    with torch.random.fork_rng():
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        MODELS.build(dict(toy.model_cfg('vit'), init_seed=0)).init_weights()
        assert torch.equal(torch.rand(3), expected)


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match='init_seed=-1'):
        toy.build(dict(toy.model_cfg('vit'), init_seed=-1))
