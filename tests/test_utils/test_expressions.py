"""check_expressions: empty sentences are refused; long and foreign ones pass with one warning."""

import warnings

import pytest

from mmetris.utils.expressions import check_expressions


def test_ordinary_sentences_pass_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert check_expressions('  the left\n dog ') == ['the left dog']
        assert check_expressions(('a', '2nd from right!', 'the man at the café table')) == [
            'a',
            '2nd from right!',
            'the man at the café table',
        ]


@pytest.mark.parametrize('texts', ['', '  \n', ['a dog', ''], [], ()])
def test_an_empty_sentence_is_refused_with_an_example(texts):
    with pytest.raises(ValueError, match='the dog on the left'):
        check_expressions(texts)


@pytest.mark.parametrize('texts', [None, 3, ['a', 3], dict(a=1)])
def test_what_is_no_sentence_is_refused(texts):
    with pytest.raises(TypeError, match='sentence'):
        check_expressions(texts)


@pytest.mark.parametrize('text', ['狗', 'собака слева', 'the dog 狗', 'الكلب', 'el niño pequeño', 'größere Käfer'])
def test_another_language_passes_with_one_warning(text):
    with pytest.warns(UserWarning, match='not English') as caught:
        assert check_expressions(text) == [text]
    assert len(caught) == 1


@pytest.mark.parametrize('text', ['dog ' * 2500, 'x' * 10000])
def test_ten_thousand_characters_are_cut_with_one_warning(text):
    with pytest.warns(UserWarning, match='too long') as caught:
        (cut,) = check_expressions(text, 17)
    assert len(caught) == 1 and cut == text[:2000]


def test_white_space_does_not_make_a_sentence_long():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert check_expressions(' ' * 10000 + 'dog') == ['dog']


def test_one_warning_speaks_for_many_sentences():
    with pytest.warns(UserWarning, match='2 sentences.*first 15 tokens') as caught:
        check_expressions(['dog ' * 20, 'a dog', 'cat ' * 30], 17)
    assert len(caught) == 1
    # [SOS], 15 words and [EOS] fit exactly.
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        check_expressions('dog ' * 15, 17)


def test_what_is_no_unicode_is_replaced_so_that_it_can_be_written():
    assert check_expressions('the caf\udce9') == ['the caf\ufffd']
