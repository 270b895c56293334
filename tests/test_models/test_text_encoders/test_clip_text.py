"""CLIP's text encoder in stages."""

import pytest
import torch
from open_clip import CLIP

from mmetris import tokenize
from tests.toy import VIT, build, encoder_cfgs

TEXTS = ['the left dog', 'a man in a red shirt with a long wooden board', 'wow!!']


@pytest.fixture
def encoder():
    return build(encoder_cfgs('vit')[1])


def test_sentence_feature_is_open_clips(encoder):
    clip = CLIP(**VIT, quick_gelu=True).eval()
    clip.load_state_dict(encoder.tower.state_dict(), strict=False)
    tokens = tokenize(TEXTS, 77)
    words, sentence = encoder(tokens)
    torch.testing.assert_close(sentence, clip.encode_text(tokens), rtol=1e-5, atol=1e-5)
    assert words.shape == (3, 77, encoder.embed_dims) and sentence.shape == (3, encoder.output_dims)


def test_words_do_not_depend_on_the_length_padded_to(encoder):
    short, long = tokenize(TEXTS, 17), tokenize(TEXTS, 40)
    for cut, full in zip(encoder(short), encoder(long)):
        full = full[:, :17] if full.dim() == 3 else full
        torch.testing.assert_close(cut, full, rtol=1e-5, atol=1e-6)


def test_padding_is_what_stands_after_the_end(encoder):
    tokens = tokenize(['!! dog', 'dog'], 8)
    assert encoder.padding_mask(tokens).sum(1).tolist() == [8 - 4, 8 - 3]


def test_more_tokens_than_positions_is_refused_with_the_setting_to_change(encoder):
    with pytest.raises(ValueError, match='78 tokens.*77 positions.*context_length'):
        encoder(torch.zeros(1, 78, dtype=torch.long))


def test_frozen_in_training(encoder):
    assert not any(parameter.requires_grad for parameter in encoder.train().parameters())
    assert not encoder.tower.training
