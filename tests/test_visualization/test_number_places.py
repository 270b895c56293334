"""place_numbers: every number is on its mask, none over another."""

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmetris.visualization.number_places import LEAST_RADIUS, place_numbers

SHAPE = (200, 300)


def blank(shape=SHAPE):
    return np.zeros(shape, np.uint8)


def disc(x, y, radius, thickness=-1, shape=SHAPE):
    return cv2.circle(blank(shape), (x, y), radius, 1, thickness)


def overlapping(places):
    there = [place for place in places if place is not None]
    return [
        (one, other)
        for one, other in itertools.combinations(there, 2)
        if np.hypot(one.x - other.x, one.y - other.y) <= one.radius + other.radius
    ]


def fragments():
    """A large part below, small ones above and to both sides, which the middle of the whole is not on."""
    mask = disc(60, 150, 25)
    for x, y in ((20, 20), (280, 20), (280, 180), (150, 100)):
        cv2.circle(mask, (x, y), 4, 1, -1)
    return mask


@pytest.mark.parametrize(
    'mask',
    [
        fragments(),
        disc(150, 100, 60, thickness=6),
        cv2.line(blank(), (10, 190), (290, 10), 1, 1),
        disc(150, 100, 1),
        cv2.rectangle(blank(), (0, 0), (299, 199), 1, 20),
    ],
    ids=['fragments', 'ring', 'line', 'dot', 'frame'],
)
def test_the_number_is_on_its_mask_and_inside_the_picture(mask):
    (place,) = place_numbers([mask], 12)
    assert mask[place.y, place.x] and place.anchor == (place.x, place.y)
    assert place.radius <= place.x < 300 - place.radius and place.radius <= place.y < 200 - place.radius
    assert round(LEAST_RADIUS * 12) <= place.radius <= 12


def test_of_fragments_it_is_the_middle_of_the_largest():
    (place,) = place_numbers([fragments()], 12)
    assert np.hypot(place.x - 60, place.y - 150) < 4 and place.radius == 12


def test_of_fragments_it_is_the_largest_also_where_a_smaller_one_is_thicker():
    mask = cv2.rectangle(disc(150, 50, 15), (40, 150), (260, 160), 1, -1)
    assert 150 <= place_numbers([mask], 12)[0].y <= 160


def test_along_a_line_it_is_the_middle():
    (place,) = place_numbers([cv2.rectangle(blank(), (20, 90), (280, 110), 1, -1)], 8)
    assert abs(place.x - 150) <= 2 and abs(place.y - 100) <= 2


def test_a_mask_that_is_empty_has_none():
    assert place_numbers([blank(), disc(50, 50, 30)], 10)[0] is None
    assert place_numbers([], 10) == []


def test_the_number_of_a_mask_is_where_no_smaller_one_covers_it():
    around, inside = disc(150, 100, 80), disc(150, 100, 40)
    for masks in ([around, inside], [inside, around]):
        places = dict(zip((masks[0] is around, masks[0] is not around), place_numbers(masks, 10)))
        assert around[places[True].y, places[True].x] and not inside[places[True].y, places[True].x]
        assert inside[places[False].y, places[False].x]


def test_twelve_equal_masks_have_twelve_numbers_in_sight():
    places = place_numbers([disc(150, 100, 70)] * 12, 10)
    assert not overlapping(places) and all(disc(150, 100, 70)[place.y, place.x] for place in places)


def test_where_the_mask_has_no_room_the_number_is_beside_it_and_points_to_it():
    mask = disc(150, 100, 3)
    places = place_numbers([mask] * 5, 10)
    assert not overlapping(places)
    assert sum(bool(mask[place.y, place.x]) for place in places) >= 1
    assert all(mask[place.anchor[::-1]] for place in places)
    assert max(np.hypot(place.x - 150, place.y - 100) for place in places) < 40
    strip = blank()
    strip[:, :2] = 1
    (place,) = place_numbers([strip], 10)
    assert place.x >= place.radius and place.anchor[0] < 2


def test_of_a_large_picture_the_places_are_exact_too():
    shape = (1500, 2600)
    thin = cv2.line(blank(shape), (100, 1400), (2500, 100), 1, 1)
    masks = [thin, disc(1300, 750, 5, shape=shape), disc(1300, 750, 400, 9, shape=shape)]
    places = place_numbers(masks, 48)
    assert all(mask[place.y, place.x] for mask, place in zip(masks, places)) and not overlapping(places)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(3, 14))
def test_any_masks(seed, number, radius):
    rng = np.random.default_rng(seed)
    masks = [
        cv2.resize((rng.random(rng.integers(1, 9, 2)) < 0.3).astype(np.uint8), SHAPE[::-1], interpolation=0)
        for _ in range(number)
    ]
    places = place_numbers(masks, radius)
    assert not overlapping(places)
    for mask, place in zip(masks, places):
        assert (place is None) == (not mask.any())
        assert place is None or mask[place.anchor[::-1]]
