"""Text in pictures: which font draws what, directions, and what is said where something cannot be drawn."""

import warnings

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mmetris.visualization import draw_expressions, text
from mmetris.visualization.text import find_font, percent

CACHED = (text._files_of, text._load_font, text._package_fonts, text._has_raqm, text._can_reorder, text._warn_once)


@pytest.fixture(autouse=True)
def fresh():
    """Nothing is remembered of other tests, nor of these."""
    for function in CACHED:
        function.cache_clear()
    yield
    for function in CACHED:
        function.cache_clear()


def ink(sentence, font=None, width=700):
    """Darkness of a drawn sentence (60, width), 0 or 1."""
    page = Image.new('L', (width, 60), 255)
    (font or find_font(sentence, 30)).write(ImageDraw.Draw(page), (5, 30), sentence, 0)
    return np.asarray(page) < 128


def boxes_for(sentence):
    """The same sentence with DejaVu Sans alone."""
    return text.PictureFont(30, {})


@pytest.mark.parametrize(
    'sentence', ['红色的狗', '赤い犬を見る', '빨간 강아지', 'लाल कुत्ता', 'คนแดง', '🐕🏠', 'the 🐕 of 狗']
)
def test_scripts_that_dejavu_lacks_are_drawn_by_the_font_packages(sentence):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        drawn = ink(sentence)
    assert drawn.any() and not np.array_equal(drawn, ink(sentence, boxes_for(sentence)))


def test_chinese_japanese_and_korean_have_their_own_forms_of_a_sign():
    drawn = [ink('直', find_font(sentence, 30)) for sentence in ('直', '直の', '직 직')]
    assert not np.array_equal(drawn[0], drawn[1])
    assert find_font('直の', 30)._files['直'][1] == 0 and find_font('直 직', 30)._files['直'][1] == 1


@pytest.mark.parametrize('with_raqm', [True, False])
def test_arabic_is_joined_and_stands_from_right_to_left(with_raqm, monkeypatch):
    if with_raqm and not text._has_raqm():
        pytest.skip('Pillow finds no FriBiDi here')
    monkeypatch.setattr(text, '_has_raqm', lambda: with_raqm)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        font = find_font('كلب', 30)
        assert font.direction == 'rtl'
        # Joined letters are narrower than the three that stand alone, and the first is at the right.
        assert font.getlength('كلب') < 0.9 * sum(font.getlength(letter) for letter in 'كلب')
        longer, own = ink('كلب ككككك'), ink('كلب')
        seen = own[:, own.any(0)]
        at_the_right = longer[:, : np.flatnonzero(longer.any(0))[-1] + 1][:, -seen.shape[1] :]
        assert (at_the_right != seen).sum() < 0.1 * seen.sum()  # Places are fractions of pixels.


@pytest.mark.parametrize(
    ('sentence', 'expected'),
    [
        ('the dog', [('ltr', 'the dog')]),
        ('كلب dog كلب', [('rtl', 'كلب '), ('ltr', 'dog'), ('rtl', ' كلب')]),
        ('the كلب dog', [('ltr', 'the '), ('rtl', 'كلب'), ('ltr', ' dog')]),
        ('كلب 🐕 12 كلب', [('rtl', 'كلب 🐕 12 كلب')]),
        ('dog 🐕 cat كلب', [('ltr', 'dog 🐕 cat '), ('rtl', 'كلب')]),
        ('كلب dog 12 كلب', [('rtl', 'كلب '), ('ltr', 'dog 12'), ('rtl', ' كلب')]),
        ('', []),
    ],
)
def test_parts_of_one_direction(sentence, expected):
    assert text._directed(sentence, find_font(sentence, 20).direction) == expected


def test_what_several_fonts_draw_is_in_order_from_right_to_left():
    sentence = 'كلب 🐕 بني dog 🏠 cat'
    font = find_font(sentence, 20)
    assert [run.text.strip() for run in font._runs(sentence)] == ['dog', '🏠', 'cat', 'بني', '🐕', 'كلب']


def test_letters_that_no_font_has_are_said_once(monkeypatch):
    monkeypatch.setattr(text, 'FONT_PACKAGES', ())
    monkeypatch.setattr(text, '_machine_fonts', lambda: iter(()))
    with pytest.warns(UserWarning, match=r'no font here has 狗.*pip install "mmetris\[fonts\]"') as caught:
        for _ in range(3):
            draw_expressions(np.zeros((40, 60, 3), np.uint8), ['狗'], [np.ones((40, 60), bool)])
    assert len(caught) == 1


def test_arabic_that_cannot_be_joined_is_said(monkeypatch):
    monkeypatch.setattr(text, '_has_raqm', lambda: False)
    monkeypatch.setattr(text, '_can_reorder', lambda: False)
    with pytest.warns(UserWarning, match=r'no Raqm here.*كلب.*FriBiDi.*mmetris\[fonts\]'):
        ink('كلب')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ink('the dog 狗')


def test_a_space_after_an_emoji_is_an_ordinary_one():
    plain = find_font('a b', 30)
    mixed = find_font('🐕 b', 30)
    assert mixed.getlength('🐕 b') - mixed.getlength('🐕b') == pytest.approx(plain.getlength(' '), abs=1)


def test_halves_of_pairs_and_what_is_not_seen_need_no_font():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ink('caf\udce9 \u200b\ufe0f\u200d')


@pytest.mark.parametrize(
    ('share', 'expected'),
    [(0, '0 %'), (1e-6, '< 0.1 %'), (0.0049, '0.5 %'), (0.0094, '0.9 %'), (0.0096, '1 %'), (0.5, '50 %'), (1, '100 %')],
)
def test_shares_below_one_percent_have_a_digit(share, expected):
    assert percent(share) == expected
