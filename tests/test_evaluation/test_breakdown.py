"""Scores by sentence length, mask size and kind of words, against cases worked out by hand."""

import json

import pytest

from mmetris.evaluation import SentenceScore, break_down, load_word_types, word_types

SCORES = [
    SentenceScore('a_1', 'left dog', 0, 100, 0.01),
    SentenceScore('a_2', 'the two red cups on the table', 50, 100, 0.04),
    SentenceScore('b_3', 'cat', 300, 300, 0.5),
    SentenceScore('b_4', 'the small thing', 0, 0, None),
]


def rows(**options):
    return {(part.by, part.part): part[2:] for part in break_down(SCORES, **options)}


def test_all_is_the_scores_of_the_test_set():
    sentences, mean, overall = rows()['all', 'all']
    assert sentences == 4
    assert mean == pytest.approx(100 * (0 + 1 / 2 + 1 + 0) / 4)
    assert overall == pytest.approx(100 * (0 + 50 + 300) / (100 + 100 + 300))


def test_lengths_count_words_and_upper_edges_belong_to_their_class():
    found = rows(length_edges=(1, 3))
    assert {key[1]: found[key][0] for key in found if key[0] == 'length'} == {
        '1 words': 1,
        '2-3 words': 2,
        '4 or more words': 1,
    }
    assert found['length', '4 or more words'][1:] == (pytest.approx(50), pytest.approx(50))


def test_mask_sizes_are_shares_of_the_picture_and_unknown_ones_are_left_out():
    found = rows(size_edges=(1, 4))
    assert {key[1]: found[key][0] for key in found if key[0] == 'mask size'} == {
        'up to 1 %': 1,
        '1 to 4 %': 1,
        'over 4 %': 1,
    }


def test_a_sentence_counts_under_each_of_its_types():
    found = rows()
    assert {key[1]: found[key][0] for key in found if key[0] == 'words'} == {
        'number': 1,
        'position': 1,
        'colour': 1,
        'none of these': 2,
    }


@pytest.mark.parametrize(
    ('expression', 'types'),
    [
        ('the dog', set()),
        ('the left dog', {'position'}),
        ('the dog to the left of the cat', {'relation'}),
        ('Man, on TOP of the car!', {'relation'}),
        ('top car', {'position'}),
        ('the square nearest to the bottom', {'position'}),
        ('the square nearest to the red ring', {'relation', 'colour'}),
        ('number 23 player', {'number'}),
        ('42', {'number'}),
        ('the oneness of lefties', set()),
        ('second guy from the right', {'number', 'position'}),
        ('red-orange scarf', {'colour'}),
        ('white bear behind the two others', {'colour', 'relation', 'number'}),
    ],
)
def test_longer_phrases_come_first_and_use_up_their_words(expression, types):
    assert word_types(expression) == types


def test_every_sentence_of_shapes_has_the_types_it_was_made_of():
    from mmetris.datasets.shapes import COLOURS, draw_sample

    seen = set()
    for index in range(40):
        for triple in draw_sample(0, 'val', index)[1]:
            for expression in triple:
                kind, types = expression.kind, word_types(expression.text)
                seen.add(kind)
                assert ('relation' in types) == (kind == 'relation'), expression.text
                assert kind != 'place' or 'position' in types, expression.text
                assert ('colour' in types) == any(colour in expression.text.split() for colour in COLOURS)
    assert seen == {'attribute', 'place', 'relation'}


def test_word_lists_are_data(tmp_path):
    path = tmp_path / 'words.json'
    path.write_text(json.dumps(dict(animal=['dog', 'cat'], place=['left'])))
    found = rows(lists=load_word_types(path))
    assert [key[1] for key in found if key[0] == 'words'] == ['animal', 'place', 'none of these']
    path.write_text('{"a": ["dog"], "b": ["dog"]}')
    load_word_types.cache_clear()
    with pytest.raises(ValueError, match="'dog' stands under 'a' and under 'b'"):
        load_word_types(path)
    for content, message in (('[]', 'must be'), ('{"a": 3}', "words of 'a'"), ('{', 'is no JSON')):
        path.write_text(content)
        load_word_types.cache_clear()
        with pytest.raises(ValueError, match=message):
            load_word_types(path)


@pytest.mark.parametrize('edges', [(), (3, 2), (0, 2), (2, 2)])
def test_edges_must_rise(edges):
    with pytest.raises(ValueError, match='length_edges must be positive numbers that rise'):
        break_down(SCORES, length_edges=edges)


def test_nothing_cannot_be_broken_down():
    with pytest.raises(ValueError, match='no sentence'):
        break_down([])
