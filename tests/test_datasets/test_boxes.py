"""Boxes of the readers: from annotations, from masks, through the letterbox and back; what is refused."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.registry import init_default_scope
from pycocotools import mask as coco_mask

from mmetris.datasets import GRefCocoDataset, RefCocoDataset
from mmetris.datasets.boxes import box_of_mask, letterbox_boxes, read_box, undo_letterbox_boxes
from mmetris.datasets.shapes import ShapesSpec, write_shapes
from mmetris.utils.letterbox import letterbox_geometry

TRAIN = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Letterbox', size=(64, 96)),
    dict(type='PackSegInputs'),
]
TEST = [TRAIN[0], TRAIN[2], TRAIN[1], TRAIN[3]]


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('boxes') / 'shapes'
    write_shapes(folder, ShapesSpec(num_train=2, num_val=1, num_test_a=1, num_test_b=1))
    return folder


def changed(shapes, folder, change):
    """The data set with its first annotation changed, and that of its first object."""
    (folder / 'refcoco').mkdir(parents=True)
    content = json.loads((shapes / 'refcoco' / 'instances.json').read_text())
    for annotation in content['annotations']:
        change(annotation)
    (folder / 'refcoco' / 'instances.json').write_text(json.dumps(content))
    for name in ('refcoco/refs(unc).p', 'train2014'):
        (folder / name).symlink_to(shapes / name)
    return folder


def boxes_of_split(folder, pipeline=TRAIN, **options):
    init_default_scope('mmetris')
    data = RefCocoDataset(str(folder), with_boxes=True, pipeline=pipeline, **options)
    return [data[index]['data_samples'] for index in range(len(data))]


def test_boxes_are_those_of_the_annotations_or_of_their_masks(shapes, tmp_path):
    given_boxes = boxes_of_split(shapes, TEST, test_mode=True)
    found = boxes_of_split(changed(shapes, tmp_path / 'masks', lambda one: one.pop('bbox')), TEST, test_mode=True)
    assert len(given_boxes) > 5
    for one, other in zip(given_boxes, found, strict=True):
        rows, columns = np.nonzero(one.gt_mask.numpy())
        expected = [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
        np.testing.assert_array_equal(other.gt_instances.bboxes, expected)
        np.testing.assert_allclose(one.gt_instances.bboxes, expected, atol=1)


def test_boxes_stay_on_their_masks_in_the_letterbox(shapes):
    for sample in boxes_of_split(shapes):
        rows, columns = np.nonzero(sample.gt_mask.numpy())
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(sample.gt_instances.bboxes[0], expected, atol=1.5)


def test_without_boxes_nothing_changes(shapes):
    init_default_scope('mmetris')
    data = RefCocoDataset(str(shapes), pipeline=TRAIN)
    assert 'boxes' not in data.get_data_info(0) and 'gt_instances' not in data[0]['data_samples']


@pytest.mark.parametrize(
    ('bbox', 'complaint'),
    [
        ([3, 4, 0, 5], 'has no area'),
        ([3, 4, 5, -1], 'has no area'),
        ([1000, 4, 5, 5], 'lies outside of the image'),
        ([-10, 4, 5, 5], 'lies outside of the image'),
        ([1, 2, 3], 'no list of four'),
        ([1, 2, 3, float('nan')], 'no list of four finite'),
        ('box', 'no list of four'),
        ([[1, 2, 3, 4]], 'no list of four'),
    ],
)
def test_a_box_that_is_none_is_named(shapes, tmp_path, bbox, complaint):
    folder = changed(shapes, tmp_path / 'bad', lambda one: one.update(bbox=bbox))
    with pytest.raises(ValueError, match=rf'instances\.json: ann_id \d+: .*{re.escape(complaint)}'):
        boxes_of_split(folder)
    init_default_scope('mmetris')
    RefCocoDataset(str(folder), pipeline=TRAIN)  # Masks alone do not ask for it.


def test_a_box_is_cut_to_the_image():
    np.testing.assert_array_equal(read_box([-3, 4, 10, 100], 20, 30), [0, 4, 7, 20])


def test_several_boxes_and_none(tmp_path):
    folder = tmp_path / 'grefs'
    write_shapes(folder, ShapesSpec(num_train=3, num_val=1, num_test_a=1, num_test_b=1), layout='grefcoco')
    init_default_scope('mmetris')
    data = GRefCocoDataset(str(folder), with_boxes=True, pipeline=TRAIN)
    records = [data.get_data_info(index) for index in range(len(data))]
    assert all(record['boxes'].shape == (len(record['ann_id']), 4) for record in records)
    assert {min(len(record['ann_id']), 2) for record in records} == {0, 1, 2}
    index = next(index for index, record in enumerate(records) if not record['ann_id'])
    assert data[index]['data_samples'].gt_instances.bboxes.shape == (0, 4)


sides = st.integers(1, 400)


@settings(deadline=None)
@given(sides, sides, sides, sides, st.lists(st.floats(-50, 500), min_size=4, max_size=4))
def test_the_letterbox_is_undone(height, width, input_h, input_w, box):
    geometry = letterbox_geometry((height, width), (input_h, input_w))
    boxes = np.array([box])
    np.testing.assert_allclose(undo_letterbox_boxes(letterbox_boxes(boxes, geometry), geometry), boxes, atol=1e-6)
    # All of the image stays all of it.
    whole = letterbox_boxes(np.array([[0, 0, width, height]], dtype=np.float64), geometry)[0]
    np.testing.assert_allclose(whole[2:] - whole[:2], geometry.scale * np.array([width, height]), atol=1e-6)


@settings(deadline=None)
@given(st.data())
def test_the_box_of_a_mask_is_the_smallest_around_it(data):
    mask = np.zeros((12, 17), np.uint8)
    for _ in range(data.draw(st.integers(0, 6))):
        mask[data.draw(st.integers(0, 11)), data.draw(st.integers(0, 16))] = 1
    box = box_of_mask(coco_mask.encode(np.asfortranarray(mask)))
    if not mask.any():
        assert box is None
        return
    left, top, right, bottom = box.astype(int)
    assert mask[top:bottom, left:right].sum() == mask.sum()
    assert mask[top, left:right].any() and mask[bottom - 1, left:right].any()
    assert mask[top:bottom, left].any() and mask[top:bottom, right - 1].any()
