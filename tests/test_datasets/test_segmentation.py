"""Masks of annotation files: every form that people have, and every mistake by name."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from mmetris.datasets.segmentation import runs_of, segmentation_to_rle
from tests.toy_refer import IMAGES, compressed_rle, decode, disc, rectangle, segmentations, uncompressed_rle


class TestMasks:
    def test_every_form_of_mask_gives_the_pixels_that_pycocotools_gives(self):
        for ann_id, image_id in {101: 11, 102: 11, 103: 12, 104: 13}.items():
            segmentation = segmentations()[ann_id]
            ours = coco_mask.decode(segmentation_to_rle(segmentation, *IMAGES[image_id]))
            np.testing.assert_array_equal(ours, decode(segmentation, *IMAGES[image_id]))
            assert ours.any()

    def test_the_mask_is_the_union_of_overlapping_polygons(self):
        rle = segmentation_to_rle([rectangle(2, 2, 8, 8), rectangle(5, 5, 12, 12)], 20, 20)
        # 6 x 6 and 7 x 7 pixels, 3 x 3 of them twice.
        assert coco_mask.area(rle) == 36 + 49 - 9

    def test_both_forms_of_rle_are_the_same_mask(self):
        mask = disc(30, 20)
        for rle in (uncompressed_rle(mask), compressed_rle(mask), json.loads(json.dumps(uncompressed_rle(mask)))):
            np.testing.assert_array_equal(coco_mask.decode(segmentation_to_rle(rle, 30, 20)), mask)

    @pytest.mark.parametrize(
        ('segmentation', 'message'),
        [
            (dict(size=[5, 5], counts=[25]), 'RLE has size'),
            (dict(size=[20, 20], counts=[25]), 'does not cover'),
            ([[1, 1, 5, 5, 1, 5, 7]], 'odd number'),
            (dict(size=[20, 20], counts=[200, -1, 201]), 'run of -1 pixels'),
            (dict(size=[20, 20], counts=[200.5, 199.5]), 'not a list of whole numbers'),
            (dict(size=[20, 20]), 'counts of its RLE are None'),
            (dict(size=None, counts=[400]), 'RLE has size None'),
            (dict(size=[20, 20], counts=''), 'has 0 pixels and does not cover'),
            (dict(size=[20, 20], counts=compressed_rle(disc(20, 19))['counts']), 'has 380 pixels and does not cover'),
            (dict(size=[20, 20], counts=compressed_rle(disc(20, 21))['counts']), 'has 420 pixels and does not cover'),
            (dict(size=[20, 20], counts=compressed_rle(disc(20, 20))['counts'][:-1]), 'RLE (ends|has)'),
            (dict(size=[20, 20], counts='a' * 40), 'run that no image holds|ends in the middle'),
            (dict(size=[20, 20], counts='5\n5'), 'no code of it'),
            (dict(size=[20, 20], counts='5\u00e95'), 'no code of it'),
            ([[3, 3, 9, 9, 3, float('nan')]], 'nan is no coordinate'),
            ([[3, 3, 5e9, 9, 3, 9]], '5000000000.0 is no coordinate'),
            ([[3, 3, 9, 9, 3, 10**30]], 'is a flat list of coordinates|no coordinate'),
            ([[[3, 3], [9, 9], [3, 9]]], 'is a flat list of coordinates'),
            ([[[3, 3], [9, 9, 4]]], 'is a flat list of coordinates'),
            ([3, 3, 9, 9, 3, 9], 'part 1 of 6: a polygon is a flat list .*, not 3'),
            ([rectangle(3, 3, 9, 9), '3 3 9 9 3 9'], 'part 2 of 2: a polygon is a flat list'),
            ([rectangle(3, 3, 9, 9), dict(size=[5, 5], counts=[25])], 'part 2 of 2: its RLE has size'),
            ([['3', '3', '9', '9', '3', '9']], 'is a flat list of coordinates'),
            ('polygon', 'it is a str'),
            (None, 'it is a NoneType'),
        ],
    )
    def test_masks_that_cannot_be_right_are_refused(self, segmentation, message):
        with pytest.raises(ValueError, match=message):
            segmentation_to_rle(segmentation, 20, 20)

    @pytest.mark.parametrize(
        'segmentation',
        [
            [],
            [[3, 3]],
            [[3, 3, 9, 9]],
            [[3, 3, 9, 9, 3, 3]],
            [rectangle(3, 3, 3, 9)],
            [rectangle(3, 5.1, 18, 5.3)],
            [rectangle(30, 30, 40, 40)],
            dict(size=[20, 20], counts=[400]),
        ],
    )
    def test_masks_without_a_pixel_have_area_0(self, segmentation):
        rle = segmentation_to_rle(segmentation, 20, 20)
        assert rle['size'] == [20, 20] and coco_mask.area(rle) == 0

    def test_a_list_of_rles_and_polygons_is_their_union(self):
        """RefCLEF and RRSIS-D have lists of RLE dicts."""
        one, other = disc(30, 20), np.zeros((30, 20), np.uint8)
        other[20:28, 2:9] = 1
        union = one | other
        for parts in (
            [compressed_rle(one), uncompressed_rle(other)],
            [json.loads(json.dumps(uncompressed_rle(one))), [2, 20, 9, 20, 9, 28, 2, 28]],
            [compressed_rle(union)],
        ):
            np.testing.assert_array_equal(coco_mask.decode(segmentation_to_rle(parts, 30, 20)), union)

    def test_whole_numbers_may_be_written_with_a_fraction_of_zero(self):
        rle = segmentation_to_rle(dict(size=[20.0, 20.0], counts=[100.0, 50.0, 250.0]), 20, 20)
        assert coco_mask.area(rle) == 50

    @settings(deadline=None, max_examples=200)
    @given(st.lists(st.integers(0, 3000), min_size=1, max_size=40))
    def test_runs_are_read_as_pycocotools_wrote_them(self, runs):
        runs = [runs[0], *(run + 1 for run in runs[1:])]
        height = sum(runs)
        if height == 0:
            return
        compressed = coco_mask.frPyObjects(dict(size=[height, 1], counts=runs), height, 1)['counts']
        assert runs_of(compressed).tolist() == runs

    @settings(deadline=None, max_examples=300)
    @given(st.binary(max_size=30) | st.text('0123456789:;<=>?@ABCXYZ[\\]^_`abcmno', max_size=12).map(str.encode))
    def test_any_bytes_are_a_mask_that_fills_the_image_or_refused(self, counts):
        try:
            rle = segmentation_to_rle(dict(size=[6, 5], counts=counts), 6, 5)
        except ValueError:
            return
        assert runs_of(rle['counts']).sum() == 30
        first, second = (coco_mask.decode(rle) for _ in range(2))
        assert set(np.unique(first)) <= {0, 1} and np.array_equal(first, second)

    @settings(deadline=None, max_examples=100)
    @given(
        st.lists(st.lists(st.floats(-5, 45), min_size=6, max_size=12).filter(lambda xy: len(xy) % 2 == 0), min_size=1)
    )
    def test_polygons_become_compressed_rle_which_stays_as_it_is(self, polygons):
        rle = segmentation_to_rle(polygons, 30, 40)
        assert rle['size'] == [30, 40] and isinstance(rle['counts'], bytes)
        np.testing.assert_array_equal(coco_mask.decode(rle), decode(polygons, 30, 40))
        assert segmentation_to_rle(rle, 30, 40) == rle
