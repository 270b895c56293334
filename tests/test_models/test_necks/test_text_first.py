"""Text first: the words go one way, what does not depend on them is computed once, and mistakes are named."""

from __future__ import annotations

import threading
import warnings
from functools import partial

import pytest
import torch
from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing
from torch.utils.checkpoint import checkpoint

from mmetris import tokenize
from mmetris.benchmark.plain_path import plain_path
from mmetris.deployment import ImagePart, TextPart, WholeModel
from mmetris.engine.compiling import compile_parts
from tests.toy import build, build_model, randn, text_first_cfg

TOKENS = tokenize(['the left dog', 'a cat', 'the right one of two'], 17)
# First stage that reads words, by the places of the adapters.
LAYERS = {(1, 3): 2, (0,): 1, (3,): 4}


def model_of(layers=(1, 3), seed=0, **kwargs):
    return build(text_first_cfg(aligner=dict(layers=layers), **kwargs), seed).eval()


def images(count, hw=(64, 64)):
    return randn(count, 3, *hw)


def close(found, expected, tolerance=1e-5):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def test_words_and_sentence_are_the_text_encoders_own_and_maps_depend_on_them():
    model = model_of()
    features = model.bridge(images(3)[[0, 0, 0]], TOKENS)
    words, sentence = model.text_encoder(TOKENS)
    assert torch.equal(features.words, words) and torch.equal(features.sentence, sentence)
    assert torch.equal(features.padding_mask, model.text_encoder.padding_mask(TOKENS))
    assert [tuple(one.shape) for one in features.maps] == [(3, 32, 8, 8)] * 3
    for feature_map in features.maps:
        assert (feature_map[0] - feature_map[1]).abs().max() > 1e-4


@pytest.mark.parametrize('layers', LAYERS)
@torch.no_grad()
def test_what_precedes_the_first_reading_stage_is_computed_once_for_each_image(layers):
    model, ran = model_of(layers), []
    run = model.backbone.stage
    model.backbone.stage = lambda index, state: ran.append((index, state.tokens.shape[0])) or run(index, state)
    pictures, index = images(2), torch.tensor([0, 1, 1])
    shared = model.bridge(pictures, TOKENS, index)
    first = LAYERS[layers]
    assert ran == [(stage, 2 if stage < first else 3) for stage in range(1, 5)]
    expected = model.bridge(pictures[index], TOKENS)
    prefix = model.encode_images(pictures)
    assert prefix.stage == first - 1 == model.neck.prefix_stage(model.backbone)
    for found in (shared, model.bridge(prefix, TOKENS, index)):
        for one, other in zip(found.maps, expected.maps, strict=True):
            close(one, other)


@torch.no_grad()
def test_without_aligners_it_is_the_model_without_bridger():
    one = model_of(backbone=dict(tuning={}))
    cfg = text_first_cfg(backbone=dict(tuning={})) | dict(neck=dict(type='Bridger', stages=()))
    other = build(cfg).eval()
    other.load_state_dict(one.state_dict())
    assert not one.neck.reads_text(one.backbone)
    prefix = one.encode_images(images(2))
    assert prefix.stage == 4 and len(prefix.maps) == 3
    index = torch.tensor([1, 0, 1])
    assert torch.equal(one.forward_logits(prefix, TOKENS, index), other.forward_logits(images(2), TOKENS, index))


def test_sentences_must_be_as_many_as_images():
    with pytest.raises(ValueError, match='3 sentences for 2 images; give image_index'):
        model_of().bridge(images(2), TOKENS)


def test_under_a_bridger_the_missing_words_are_named():
    cfg = text_first_cfg() | dict(neck=dict(type='Bridger', stages=()))
    with pytest.raises(ValueError, match=r"none were handed.*neck=dict\(type='TextFirst'\)"):
        build(cfg).bridge(images(3), TOKENS)


@pytest.mark.parametrize('hw', [(64, 64), (40, 96)])
@pytest.mark.parametrize('layers', LAYERS)
@torch.no_grad()
def test_both_parts_together_are_the_whole_and_exported_too(layers, hw):
    model = model_of(layers)
    pictures, index = (images(2, hw) * 60 + 128).clamp(0, 255), torch.tensor([1, 0, 1])
    whole, image_part, text_part = WholeModel(model, hw), ImagePart(model), TextPart(model, hw)
    expected = whole(pictures[index], TOKENS)
    features = image_part(pictures)
    for one, other in zip(text_part(TOKENS, index, *features), expected, strict=True):
        close(one, other, 1e-4)
    for part, given in ((whole, (pictures[index], TOKENS)), (text_part, (TOKENS, index, *features))):
        found = torch.export.export(part, given).module()(*given)
        for one, other in zip(found, expected, strict=True):
            close(one, other, 1e-4)


def test_the_walk_is_one_graph():
    model = model_of()
    with torch.no_grad():
        expected = model.forward_logits(images(3), TOKENS)
        compile_parts(model, backend='eager', fullgraph=True)
        close(model.forward_logits(images(3), TOKENS), expected, 1e-4)
    torch.compiler.reset()


def test_the_literal_computation_gives_the_same():
    model = model_of()
    with torch.no_grad():
        expected = model.forward_logits(images(2), TOKENS, torch.tensor([0, 0, 1]))
        with plain_path(model):
            close(model.forward_logits(images(2), TOKENS, torch.tensor([0, 0, 1])), expected, 1e-4)


def checkpoint_blocks(model):
    """Checkpointing as PyTorch recommends it, of all blocks of both encoders."""
    for block in (*model.backbone.tower.blocks, *model.text_encoder.tower.transformer.resblocks):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def checkpoint_image_blocks(model):
    """MMEngine's, which is for modules that are called without keywords."""
    turn_on_activation_checkpointing(model, [f'backbone.tower.blocks.{block}' for block in range(4)])


@pytest.mark.parametrize('turn_on', [checkpoint_blocks, checkpoint_image_blocks])
def test_activation_checkpointing_of_blocks_changes_no_gradient(turn_on):
    """Blocks are run again in the backward pass, with the words that belong to them."""
    gradients = []
    for checkpointed in (False, True):
        model = model_of()
        if checkpointed:
            turn_on(model)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            model.forward_logits(images(3), TOKENS).square().mean().backward()
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.requires_grad})
    for (name, one), other in zip(gradients[1].items(), gradients[0].values(), strict=True):
        assert one is not None and other is not None, name
        torch.testing.assert_close(one, other)


@torch.no_grad()
def test_threads_do_not_see_each_others_words():
    model = model_of()
    pictures = images(1)
    expected = [model.forward_logits(pictures, TOKENS[row : row + 1]) for row in range(3)]
    found = {}

    def ask(row):
        for _ in range(5):
            with torch.no_grad():
                found.setdefault(row, []).append(model.forward_logits(pictures, TOKENS[row : row + 1]))

    threads = [threading.Thread(target=ask, args=(row,)) for row in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for row in range(3):
        assert len(found[row]) == 5
        for one in found[row]:
            close(one, expected[row])


@pytest.mark.parametrize('layers', LAYERS)
def test_the_prefix_cache_ends_before_the_first_adapted_stage(layers, tmp_path):
    cfg = text_first_cfg(aligner=dict(layers=layers)) | dict(prefix_cache=dict(dir=str(tmp_path / 'cache'), max_gb=1))
    model, plain = build(cfg).train(), model_of(layers).train()
    plain.load_state_dict(model.state_dict())
    ran, run = [], model.backbone.stage
    model.backbone.stage = lambda index, state: ran.append(index) or run(index, state)
    for _ in range(2):
        ran.clear()
        torch.manual_seed(0)
        found = model.bridge(images(3), TOKENS)
        torch.manual_seed(0)
        expected = plain.bridge(images(3), TOKENS)
        for one, other in zip(found.maps, expected.maps, strict=True):
            close(one, other)
    assert ran == list(range(LAYERS[layers], 5))
    assert model.prefix_cache.hits == model.prefix_cache.misses == 3


def test_other_encoders_read_no_words():
    encoder = build_model('vit').backbone
    assert encoder.reading_stages == () and not encoder.hands_words
    with pytest.raises(NotImplementedError, match='no stage of CLIPViT reads words'):
        encoder.hand_words(None, randn(1, 2, 3))
