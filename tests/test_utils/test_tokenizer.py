"""Tokens equal CLIP's and those recorded from the released code of ETRIS."""

import functools
import json
from pathlib import Path

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from mmetris.models.clip import DualEncoder
from mmetris.models.text_encoders import CLIPTextEncoder
from mmetris.utils.tokenizer import (
    CLIP_TOKENIZER,
    EOS_TOKEN,
    PAD_TOKEN,
    SOS_TOKEN,
    BytePairTokenizer,
    HuggingFaceTokenizer,
    Tokenizer,
    _byte_pairs,
    count_tokens,
    tokenize,
)

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
    assert CLIP_TOKENIZER.encode(text) == CLIP.encode(text)


@settings(deadline=None, max_examples=150)
@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_printable_ascii_which_skips_the_repair_is_encoded_as_by_open_clip(text):
    assert CLIP_TOKENIZER.encode(text) == CLIP.encode(text)


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


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=60))
@pytest.mark.parametrize('clean', ['lower', 'whitespace', 'canonicalize'])
def test_a_tokenizer_of_other_options_is_open_clips(clean, text):
    tokenizer, other = BytePairTokenizer(clean, ('<mask>',)), _open_clips(clean)
    text += ' A <mask> DOG &amp; co'
    assert tokenizer(text, 30).tolist() == other([text], 30).tolist()
    assert tokenizer.count(text) == len(other.encode(text)) + 2


@functools.lru_cache
def _open_clips(clean):
    return SimpleTokenizer(clean=clean, additional_special_tokens=['<mask>'])


def test_ids_of_the_special_tokens():
    assert (CLIP_TOKENIZER.sos, CLIP_TOKENIZER.eos, CLIP_TOKENIZER.pad) == (SOS_TOKEN, EOS_TOKEN, PAD_TOKEN)
    assert CLIP_TOKENIZER('a', 4).tolist() == [[SOS_TOKEN, CLIP_TOKENIZER.encode('a')[0], EOS_TOKEN, PAD_TOKEN]]


def test_a_text_cfg_names_its_tokenizer():
    assert Tokenizer.of_text_cfg({}) == CLIP_TOKENIZER
    cfg = dict(tokenizer_kwargs=dict(clean='canonicalize', additional_special_tokens=['<x>']))
    assert Tokenizer.of_text_cfg(cfg) == BytePairTokenizer('canonicalize', ('<x>',))
    cfg = dict(hf_tokenizer_name='google/mt5-base', tokenizer_kwargs=dict(clean='canonicalize'))
    assert Tokenizer.of_text_cfg(cfg) == HuggingFaceTokenizer(
        source='google/mt5-base', options=(('clean', 'canonicalize'),)
    )
    with pytest.raises(ValueError, match="tokenizer_kwargs={'reduction_mask': 'random'}"):
        Tokenizer.of_text_cfg(dict(tokenizer_kwargs=dict(reduction_mask='random')))


def test_words_are_looked_up_once():
    pairs = _byte_pairs('lower', ())
    CLIP_TOKENIZER.encode('zebra crossing')
    misses = pairs.word.cache_info().misses
    CLIP_TOKENIZER.encode('crossing zebra')
    assert BytePairTokenizer().encode('zebra') and pairs.word.cache_info().misses == misses


def test_a_hugging_face_tokenizer_that_is_not_here_is_refused():
    with pytest.raises(ValueError, match='its tokenizer is nobody/nothing of Hugging Face'):
        HuggingFaceTokenizer(source='nobody/nothing').prepare()


@pytest.fixture
def bert(tmp_path):
    """A BERT tokenizer of nine words, in a folder."""
    transformers = pytest.importorskip('transformers')
    words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'the', 'left', 'dog', 'cat']
    (tmp_path / 'vocab.txt').write_text('\n'.join(words))
    transformers.BertTokenizerFast(vocab=str(tmp_path / 'vocab.txt')).save_pretrained(tmp_path)
    return str(tmp_path)


def test_a_hugging_face_tokenizer_of_a_folder(bert):
    tokenizer = HuggingFaceTokenizer(source=bert)
    assert (tokenizer.sos, tokenizer.eos, tokenizer.pad) == (2, 3, 0)
    assert tokenizer(['The left dog', 'cat'], 6).tolist() == [[2, 5, 6, 7, 3, 0], [2, 8, 3, 0, 0, 0]]
    assert tokenizer('the left dog cat', 4).tolist() == [[2, 5, 6, 3]]
    assert tokenizer.count('the left dog cat') == 6 and tokenizer([], 6).shape == (0, 6)
    bare = HuggingFaceTokenizer(source=bert, options=(('strip_sep_token', True),))
    assert bare.eos is None and bare('dog', 4).tolist() == [[2, 7, 0, 0]]


def test_a_place_of_the_files_is_their_folder_or_one_of_them(bert):
    arch = open_clip.get_model_config('ViT-B-16-SigLIP2') | dict(vision_cfg=dict(width=64, layers=1))
    arch['text_cfg'] |= dict(vocab_size=9, width=16, heads=2, layers=4, context_length=8)
    files = [path.name for path in Path(bert).iterdir()]
    assert {'tokenizer.json', 'tokenizer_config.json'} <= set(files)
    for place in (bert, f'{bert}/tokenizer.json'):
        encoder = CLIPTextEncoder(arch, quick_gelu=False, tokenizer=place)
        assert encoder.tokenizer == HuggingFaceTokenizer(bert, options=(('clean', 'canonicalize'),))
        assert encoder.tokenizer('The left, dog!', 8).tolist() == [[2, 5, 6, 7, 3, 0, 0, 0]]
        # The last position speaks for the sentence; sentences are as long as in training.
        words, sentence = encoder(encoder.tokenizer(['the left dog', 'cat'], 8))
        assert words.shape == (2, 8, 16) and sentence.shape == (2, 768)
    arch['text_cfg'] |= dict(vocab_size=8)
    with pytest.raises(ValueError, match='has 9 ids, but the text encoder knows 8: it belongs to another model'):
        CLIPTextEncoder(arch, quick_gelu=False, tokenizer=bert)


def test_a_place_without_the_files_is_refused_by_name(tmp_path):
    own = HuggingFaceTokenizer(source='timm/ViT-B-16-SigLIP')
    with pytest.raises(FileNotFoundError, match=r'nowhere is not there. Put tokenizer.json .*timm/ViT-B'):
        own.in_folder(str(tmp_path / 'nowhere'))
    (tmp_path / 'spiece.model').write_bytes(b'')
    with pytest.raises(FileNotFoundError, match=r'tokenizer_config.json is not there'):
        own.in_folder(str(tmp_path / 'spiece.model'))
    (tmp_path / 'tokenizer_config.json').write_text('{}')
    assert own.in_folder(str(tmp_path / 'spiece.model')).source == own.in_folder(str(tmp_path)).source == str(tmp_path)
    described = DualEncoder.describe('ViT-B-16-SigLIP', tokenizer=str(tmp_path))
    assert described.tokenizer == HuggingFaceTokenizer(str(tmp_path), options=(('clean', 'canonicalize'),))
    with pytest.raises(ValueError, match="sentences of arch 'ViT-B-16' are CLIP's tokens"):
        DualEncoder.describe('ViT-B-16', tokenizer=str(tmp_path))


def test_what_is_no_unicode_becomes_tokens_too():
    """A command line hands over bytes that are no UTF-8 as surrogates, and JSON may hold such."""
    assert tokenize('caf\udce9', 9).equal(tokenize('caf\ufffd', 9))
