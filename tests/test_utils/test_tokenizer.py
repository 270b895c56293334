"""Tokens equal CLIP's and those recorded from the released code of ETRIS."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from mmetris.utils.tokenizer import EOS_TOKEN, SOS_TOKEN, _encode, count_tokens, tokenize

RECORDED = json.loads((Path(__file__).parents[1] / 'data' / 'golden' / 'tokens.json').read_text())
CLIP = SimpleTokenizer()


@pytest.mark.parametrize('context_length', [17, 22])
@pytest.mark.parametrize('record', RECORDED, ids=lambda record: record['text'][:20] or 'empty')
def test_tokens_equal_the_recorded_ones(record, context_length):
    assert tokenize(record['text'], context_length)[0].tolist() == record[f'ids{context_length}']


def test_a_list_gives_one_row_per_sentence_as_int64():
    tokens = tokenize(['left', 'the left dog'], 6)
    assert tokens.dtype == torch.long and tokens.shape == (2, 6)
    assert torch.equal(tokens[1:], tokenize('the left dog', 6))
    assert tokenize([], 6).shape == (0, 6)


def test_the_default_length_is_clips():
    assert tokenize('a dog').shape == (1, 77)


def test_the_package_offers_tokenize():
    import mmetris

    assert mmetris.tokenize is tokenize


@settings(deadline=None, max_examples=150)
@given(st.text(max_size=60))
def test_any_text_is_encoded_as_by_open_clip(text):
    assert _encode(text) == CLIP.encode(text)


@settings(deadline=None, max_examples=150)
@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_printable_ascii_which_skips_the_repair_is_encoded_as_by_open_clip(text):
    assert _encode(text) == CLIP.encode(text)


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=80), st.integers(2, 30))
def test_a_sentence_is_bracketed_cut_and_padded(text, length):
    ids = tokenize(text, length)[0].tolist()
    num_tokens = min(count_tokens(text), length)
    assert ids[0] == SOS_TOKEN and ids[num_tokens - 1] == EOS_TOKEN and not any(ids[num_tokens:])
    assert ids[1 : num_tokens - 1] == CLIP.encode(text)[: length - 2]


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=40))
def test_a_longer_context_only_adds_padding_to_a_sentence_that_fits(text):
    length = count_tokens(text)
    assert tokenize(text, length)[0].tolist() == tokenize(text, length + 5)[0, :length].tolist()


def test_what_is_no_text_or_no_length_is_refused():
    with pytest.raises(TypeError, match=r'texts\[1\] is 3'):
        tokenize(['dog', 3])
    with pytest.raises(ValueError, match='at least 2'):
        tokenize('dog', 1)
