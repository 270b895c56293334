"""Aligners and Bridgers at once: each is the one that it is alone, and what no sentence changes is computed once."""

from __future__ import annotations

import pytest
import torch

from mmetris import tokenize
from mmetris.deployment import ImagePart, TextPart, WholeModel
from tests.toy import build, randn, text_first_cfg

TOKENS = tokenize(['the left dog', 'a cat', 'the right one of two'], 17)
BRIDGER = dict(type='TextFirstBridger', embed_dims=8, num_heads=2, ffn_dims=16, zoom_norm=True)


def model_of(layers=(1, 3), neck=None, **kwargs):
    cfg = text_first_cfg(aligner=dict(layers=layers), **kwargs) | dict(neck=dict(BRIDGER) | (neck or {}))
    return build(cfg).eval()


def same_weights(model, cfg):
    other = build(cfg).eval()
    other.load_state_dict(model.state_dict())
    return other


@torch.no_grad()
def test_without_bridgers_it_is_text_first():
    model = model_of(neck=dict(stages=()))
    other = same_weights(model, text_first_cfg())
    images = randn(3, 3, 64, 64)
    assert torch.equal(model.forward_logits(images, TOKENS), other.forward_logits(images, TOKENS))


@torch.no_grad()
def test_without_aligners_it_is_the_bridger():
    model = model_of(backbone=dict(tuning={}))
    other = same_weights(model, text_first_cfg(backbone=dict(tuning={})) | dict(neck=BRIDGER | dict(type='Bridger')))
    images = randn(3, 3, 64, 64)
    assert torch.equal(model.forward_logits(images, TOKENS), other.forward_logits(images, TOKENS))


@torch.no_grad()
def test_aligners_read_the_finished_words_and_bridgers_change_both_sides():
    model, handed = model_of(), []
    hand = model.backbone.hand_words
    model.backbone.hand_words = lambda state, words: handed.append(words) or hand(state, words)
    images = randn(3, 3, 64, 64)
    features = model.bridge(images, TOKENS)
    words, sentence = model.text_encoder(TOKENS)
    assert len(handed) == 1 and torch.equal(handed[0], words)
    assert (features.words - words).abs().max() > 1e-3 and (features.sentence - sentence).abs().max() > 1e-3
    unbridged = same_weights_without_neck(model, images)
    for one, other in zip(features.maps, unbridged, strict=True):
        assert (one - other).abs().max() > 1e-3


def same_weights_without_neck(model, images):
    other = build(text_first_cfg()).eval()
    other.load_state_dict({key: value for key, value in model.state_dict().items() if not key.startswith('neck.')})
    return other.bridge(images, TOKENS).maps


# Places of the aligners -> the last stage that is computed once for each image; the first Bridger is at stage 2.
PREFIXES = {(0,): 0, (1, 3): 1, (3,): 2}


@pytest.mark.parametrize('layers', PREFIXES)
@torch.no_grad()
def test_what_no_sentence_changes_is_computed_once_for_each_image(layers):
    model, ran = model_of(layers), []
    run = model.backbone.stage
    model.backbone.stage = lambda index, state: ran.append((index, state.tokens.shape[0])) or run(index, state)
    pictures, index = randn(2, 3, 64, 64), torch.tensor([0, 1, 1])
    shared = model.forward_logits(pictures, TOKENS, index)
    last = PREFIXES[layers]
    assert ran == [(stage, 2 if stage <= last else 3) for stage in range(1, 5)]
    assert model.encode_images(pictures).stage == last
    expected = model.forward_logits(pictures[index], TOKENS)
    torch.testing.assert_close(shared, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        model.forward_logits(model.encode_images(pictures), TOKENS, index), expected, rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
def test_it_is_exported_in_two_parts():
    model = model_of()
    pictures, index = (randn(2, 3, 64, 64) * 60 + 128).clamp(0, 255), torch.tensor([1, 0, 1])
    features = ImagePart(model)(pictures)
    expected = WholeModel(model, (64, 64))(pictures[index], TOKENS)
    given = (TOKENS, index, *features)
    for one, other in zip(
        torch.export.export(TextPart(model, (64, 64)), given).module()(*given), expected, strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
