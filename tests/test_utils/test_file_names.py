"""Names of written files: legal, short enough, and no two the same."""

from __future__ import annotations

import pytest

from mmetris.utils.file_names import MAX_STEM_BYTES, FreeNames, file_stem, sample_name


@pytest.mark.parametrize(
    ('name', 'stem'),
    [
        ('COCO_train2014_000000000009.jpg', 'COCO_train2014_000000000009'),
        ('b/c/a photo (1).jpeg', 'a photo (1)'),
        ('café 狗.png', 'café 狗'),
        ('caf\udce9.png', 'caf_'),
        ('a:b?*|"<>\n.png', 'a_b_______'),
        ('....png', 'image'),
        ('', 'image'),
    ],
)
def test_a_picture_becomes_a_legal_stem(name, stem):
    assert file_stem(name) == stem


@pytest.mark.parametrize('letter', ['a', 'é', '狗', '𠀀'])
def test_a_stem_leaves_room_for_numbers_and_endings_in_255_bytes(letter):
    stem = file_stem(f'{letter * 300}.png')
    assert MAX_STEM_BYTES - 4 < len(stem.encode()) <= MAX_STEM_BYTES and set(stem) == {letter}


def test_a_sentence_is_named_by_picture_and_id():
    assert sample_name(dict(img_path='x/a.jpg', sent_id=7, sample_idx=3)) == 'a_7'
    assert sample_name(dict(img_path='x/a.jpg', sent_id=None, sample_idx=3)) == 'a_3'
    assert sample_name(dict(img_path='x/a.jpg', sent_id=[7, 8], sample_idx=3)) == 'a_3'
    assert sample_name(dict(img_path='x/a.jpg', sent_id='7/b', sample_idx=3)) == 'a_7_b'
    assert sample_name(dict(img_path='x/a.jpg', sent_id=7, sample_name='a_7_2')) == 'a_7_2'
    assert sample_name({}) == 'image'


def test_a_name_is_given_once_whatever_the_case_of_its_letters():
    free = FreeNames()
    assert [free.of(name) for name in ('a', 'A', 'a_2', 'a', 'b')] == ['a', 'A_2', 'a_2_2', 'a_3', 'b']


def test_a_number_takes_no_name_that_another_has_by_itself():
    names = ['a_1', 'a_1', 'a_1_2', 'a_1']
    free = FreeNames(reserved=names)
    assert [free.of(name) for name in names] == ['a_1', 'a_1_3', 'a_1_2', 'a_1_4']
