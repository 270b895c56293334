"""draw_expressions: each sentence has its colour in the picture and in the legend."""

import cv2
import numpy as np
import pytest

from mmetris.visualization import draw_expressions, draw_labels
from mmetris.visualization.palette import color_of
from mmetris.visualization.text import PictureFont

IMAGE = np.full((300, 600, 3), 90, np.uint8)


def box_mask(top, left, bottom, right, shape=(300, 600)):
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


def has_color(picture, color):
    return (picture == color).all(axis=-1).any()


def test_masks_are_tinted_in_their_colours_and_the_rest_stays():
    masks = [box_mask(20, 20, 120, 120), box_mask(150, 300, 280, 500)]
    picture = draw_expressions(IMAGE, ['one', 'two'], masks, [0.9, 0.5])
    assert picture.shape[0] > 300 and picture.shape[1] == 600  # a legend below
    assert (picture[200, 150] == 90).all()
    for index, (y, x) in enumerate([(30, 30), (160, 310)]):
        expected = 0.65 * 90 + 0.35 * np.array(color_of(index))
        assert np.abs(picture[y, x] - expected).max() <= 1
        assert has_color(picture[:300], color_of(index)) and has_color(picture[300:], color_of(index))


def test_an_empty_mask_is_said_so_and_drawn_nowhere():
    empty = np.zeros((300, 600), bool)
    picture = draw_expressions(IMAGE, ['one'], [empty], [0.0])
    assert (picture[:300] == 90).all()
    full = draw_expressions(IMAGE, ['one'], [box_mask(1, 1, 9, 9)], None)
    assert picture.shape == full.shape
    # "nothing found" stands at the right of the line, where there is nothing else without scores.
    assert (picture[300:, 400:] < 200).any() and not (full[300:, 400:] < 200).any()


def test_a_small_mask_inside_a_large_one_stays_visible_whatever_the_order():
    large, small = box_mask(0, 0, 300, 600), box_mask(100, 100, 200, 200)
    for masks, index in (([large, small], 1), ([small, large], 0)):
        picture = draw_expressions(IMAGE, ['a', 'b'], masks)
        assert (picture[100, 150] == color_of(index)).all()  # its contour is not tinted by the other


def test_numbers_of_masks_that_lie_upon_each_other_stand_apart():
    mask = box_mask(50, 100, 250, 500)
    picture = draw_expressions(IMAGE, ['a', 'b', 'c'], [mask] * 3)
    for index in range(3):  # each disc is seen inside of the mask, beyond the contour of the last
        assert (picture[60:240, 110:490] == color_of(index)).all(axis=-1).sum() > 100


def test_the_picture_has_one_size_whatever_was_found():
    """The frames of a video must not differ."""
    texts = ['a sentence that takes more than a single line of the legend ' * 3, 'two']
    masks = [box_mask(0, 0, 50, 50), np.zeros((300, 600), bool)]
    sizes = {
        draw_expressions(IMAGE, texts, some, scores).shape
        for some in (masks, masks[::-1])
        for scores in (None, [1.0, 0.0])
    }
    assert len(sizes) == 1


@pytest.mark.parametrize('height, width', [(1, 1), (3, 900), (900, 3), (20, 20), (2000, 1500)])
def test_pictures_of_any_size_are_drawn(height, width):
    image = np.full((height, width, 3), 90, np.uint8)
    masks = [np.ones((height, width), bool), np.zeros((height, width), bool)]
    picture = draw_expressions(image, ['the dog ' * 2000, '狗'], masks, [0.5, 0])
    assert picture.dtype == np.uint8 and picture.shape[1] >= 100


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ValueError, match='2 sentences, 1 masks'):
        draw_expressions(IMAGE, ['a', 'b'], [box_mask(0, 0, 1, 1)])
    with pytest.raises(ValueError, match=r'\(5, 5\)'):
        draw_expressions(IMAGE, ['a'], [np.zeros((5, 5), bool)])


def test_a_sentence_that_means_nothing_has_a_note_of_its_own():
    """And the frames of a video keep one size, whichever notes they have."""
    empty = np.zeros(IMAGE.shape[:2], bool)
    pictures = [draw_expressions(IMAGE, ['one'], [empty], no_target=[absent]) for absent in (True, False)]
    assert pictures[0].shape == pictures[1].shape and not np.array_equal(*pictures)
    assert np.array_equal(draw_expressions(IMAGE, ['one'], [empty]), draw_expressions(IMAGE, ['one'], [empty], [0.0]))


def colors_in(picture):
    return {index for index in range(16) if has_color(picture[:300], color_of(index))}


def test_a_colour_stays_with_its_sentence_when_another_mask_becomes_empty():
    masks = [box_mask(20, 20 + 120 * index, 120, 120 + 120 * index) for index in range(4)]
    texts = ['a', 'b', 'c', 'd']
    assert colors_in(draw_expressions(IMAGE, texts, masks)) == {0, 1, 2, 3}
    masks[1][:] = False
    assert colors_in(draw_expressions(IMAGE, texts, masks)) == {0, 2, 3}


def test_a_colour_stays_with_its_class_when_its_share_changes():
    labels = np.full((300, 600), 255, np.uint8)
    labels[:, :100], labels[:, 300:500] = 3, 9
    names = [f'class {index}' for index in range(20)]
    before = draw_labels(IMAGE, names, labels)
    labels[:, 100:] = np.where(labels[:, 100:] == 9, 255, labels[:, 100:])
    labels[:10, 320:340] = 9  # Now the smaller one.
    after = draw_labels(IMAGE, names, labels)
    assert colors_in(before) == colors_in(after) == {3, 9}
    tint = (0.65 * 90 + 0.35 * np.array(color_of(3))).round()
    assert (before[250, 20] == tint).all() and (after[250, 20] == tint).all()


def test_twelve_sentences_have_twelve_colours_and_numbers_on_their_masks():
    masks = [
        box_mask(10 + 90 * (index // 4), 20 + 140 * (index % 4), 90 + 90 * (index // 4), 120 + 140 * (index % 4))
        for index in range(12)
    ]
    picture = draw_expressions(IMAGE, [f'sentence {index}' for index in range(12)], masks)
    assert len(colors_in(picture)) == 12
    for index, mask in enumerate(masks):
        disc = (picture[:300] == color_of(index)).all(-1)
        rows, columns = np.nonzero(mask)
        middle = disc[rows.min() + 25 : rows.max() - 25, columns.min() + 30 : columns.max() - 30]
        assert (
            middle.sum() > 100 and not (disc & ~cv2.dilate(mask.astype(np.uint8), np.ones((9, 9))).astype(bool)).any()
        )


def test_many_short_sentences_stand_in_columns_and_long_lists_end_with_a_count(monkeypatch):
    written = []
    write = PictureFont.write
    monkeypatch.setattr(
        PictureFont,
        'write',
        lambda self, draw, point, text, *more: written.append(text) or write(self, draw, point, text, *more),
    )
    masks = [np.zeros((300, 600), bool)] * 60
    heights = {
        number: draw_expressions(IMAGE, ['a dog'] * number, masks[:number]).shape[0] - 300 for number in (6, 12, 40, 60)
    }
    assert heights[12] < 1.2 * heights[6] and heights[60] < 1.2 * heights[40]
    assert written.count('and 20 more') == 1
    long = draw_expressions(IMAGE, ['a dog that stands behind the second tree from the left'] * 12, masks[:12])
    assert long.shape[0] - 300 > 1.8 * heights[12]
    labels = np.repeat(np.arange(30, dtype=np.uint8), 6000).reshape(300, 600)
    draw_labels(IMAGE, [f'class {index}' for index in range(30)], labels, max_classes=28)
    assert 'and 2 more, 7 % of the image' in written and '3 % of the image' in written


def test_numbers_say_colour_and_number():
    mask = box_mask(20, 20, 280, 580)
    assert colors_in(draw_expressions(IMAGE, ['a', 'b'], [mask, mask], numbers=[6, 11])) == {6, 11}
