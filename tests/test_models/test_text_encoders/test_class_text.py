"""Class names as the text side of the Bridger."""

import pytest
import torch

from mmetris import tokenize
from tests.toy import VIT, build, build_model, randn

NAMES = ['cat', ['sofa', 'the couch'], 'traffic light']
SENTENCES = ['cat', 'sofa', 'the couch', 'traffic light']


def class_text(vocabulary=None, **kwargs):
    return build(dict(type='ClassText', arch=VIT, vocabulary=vocabulary or dict(classes=NAMES), **kwargs))


def walk(view, batch_size=1, update=0.0):
    words = view.embed(view.ids(batch_size))
    for index in range(1, 5):
        words = view.stage(index, words) + update
    return view.tail(words, view.ids(batch_size))


def test_without_updates_the_walk_ends_at_clips_own_sentence_features():
    encoder = class_text()
    words, sentences = walk(encoder.for_names(), batch_size=2)
    expected = encoder(tokenize(SENTENCES))[1]
    assert words.shape == (2, 4, encoder.embed_dims)
    torch.testing.assert_close(sentences, expected.expand(2, -1, -1), rtol=1e-5, atol=1e-5)


def test_updates_stay_in_the_stream():
    encoder = class_text()
    end = encoder.stage_features()[-1]
    expected = encoder.tower.ln_final(end + 4 * 0.1)
    torch.testing.assert_close(walk(encoder.for_names(), update=0.1)[0][0], expected, rtol=1e-5, atol=1e-5)


def test_a_names_features_are_the_mean_over_its_templates():
    both = class_text(dict(classes=NAMES, templates=['a {}.', 'the {}']))
    single = [class_text(dict(classes=NAMES, templates=[template])) for template in ('a {}.', 'the {}')]
    for mean, *parts in zip(both.stage_features(), *(encoder.stage_features() for encoder in single)):
        torch.testing.assert_close(mean, torch.stack(parts).mean(0), rtol=1e-5, atol=1e-5)


def test_chunks_of_prompts_change_nothing(monkeypatch):
    whole = class_text().stage_features()
    monkeypatch.setattr('mmetris.models.text_encoders.class_text.PROMPTS_AT_ONCE', 3)
    for expected, chunked in zip(whole, class_text().stage_features()):
        torch.testing.assert_close(chunked, expected, rtol=1e-5, atol=1e-5)


def test_the_index_selects_and_orders_names():
    encoder = class_text()
    chosen = encoder.for_names(torch.tensor([3, 0]))
    torch.testing.assert_close(walk(chosen)[1], walk(encoder.for_names())[1][:, [3, 0]])
    assert not chosen.padding_mask(chosen.ids(2)).any() and chosen.ids(2).tolist() == [[0, 1], [0, 1]]


def test_a_frozen_encoder_computes_once_until_vocabulary_or_weights_change(monkeypatch):
    encoder = class_text()
    calls = []
    embed = encoder.embed
    monkeypatch.setattr(encoder, 'embed', lambda tokens: calls.append(1) or embed(tokens))
    first = encoder.stage_features()
    assert encoder.stage_features() is first and len(calls) == 1
    encoder.set_vocabulary(dict(classes=['dog', 'wall']))
    assert encoder.stage_features()[0].shape[0] == 2 and len(calls) == 2
    encoder.load_state_dict({key: value + 1 for key, value in encoder.state_dict().items()})
    assert not torch.equal(encoder.stage_features()[-1][:1], first[-1][:1]) and len(calls) == 3


def test_autocast_around_the_first_call_does_not_lower_the_precision_kept():
    encoder = class_text()
    with torch.autocast('cpu', torch.bfloat16):
        kept = encoder.stage_features()
    torch.testing.assert_close(kept, class_text().stage_features(), rtol=0, atol=0)


def test_a_tuned_encoder_gets_gradients_through_the_names():
    encoder = class_text(tunable_parameters=['positional_embedding'])
    walk(encoder.for_names())[1].sum().backward()
    assert encoder.tower.positional_embedding.grad.abs().sum() > 0
    assert not class_text().stage_features()[-1].requires_grad


def test_the_state_dict_is_that_of_the_plain_encoder():
    encoder = class_text()
    encoder.stage_features()
    plain = build(dict(type='CLIPTextEncoder', arch=VIT))
    assert encoder.state_dict().keys() == plain.state_dict().keys()


def test_the_bridger_walks_names_as_it_walks_words():
    model, encoder = build_model().eval(), class_text()
    view = encoder.for_names()
    features = model.neck(model.backbone, view, randn(2, 3, 64, 48), view.ids(2))
    assert features.words.shape == (2, 4, encoder.embed_dims)
    assert features.sentence.shape == (2, 4, encoder.output_dims)
    assert not features.padding_mask.any()


def test_a_bad_vocabulary_is_an_error_at_build_time():
    with pytest.raises(ValueError, match='neither a text file'):
        class_text(dict(classes='ade21k'))
