"""Ref-ZOM's files: ``source`` says whether a sentence means anything; images lie in two folders."""

import pickle

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmetris.datasets import GRefCocoDataset, MixedRefDataset, RefCocoDataset, RefZomDataset
from tests.toy_refer import IMAGES, decode, file_name, segmentations, write_toy_refer

ZERO, MANY, ON_VAL2014 = 0, 1, 12


def write_refzom(root, change=None):
    """The toy set in Ref-ZOM's layout: one item means nothing, one two objects, and image 12 is of COCO's val2014."""

    def rename(instances, refs):
        for image in instances['images']:
            if image['id'] == ON_VAL2014:
                image['file_name'] = image['file_name'].replace('train2014', 'val2014')

    write_toy_refer(root, 'ref-zom', 'final', rename)
    (root / 'val2014').mkdir()
    name = file_name(ON_VAL2014)
    (root / 'train2014' / name).rename(root / 'val2014' / name.replace('train2014', 'val2014'))
    path = root / 'ref-zom' / 'refs(final).p'
    refs = pickle.loads(path.read_bytes())
    for ref in refs:
        ref.update(ann_id=[ref['ann_id']], source='one')
    # The published file names annotations of sentences without a target, too.
    refs[ZERO].update(source='zero')
    refs[MANY].update(source='many', ann_id=[101, 102])
    if change is not None:
        change(refs)
    path.write_bytes(pickle.dumps(refs))
    return root


def records(root, **kwargs):
    dataset = RefZomDataset(str(root), **kwargs)
    return [dataset.get_data_info(index) for index in range(len(dataset))]


def test_zero_one_and_many(tmp_path):
    found = {record['ref_id']: record for record in records(write_refzom(tmp_path))}
    zero, many, one = found[1], found[2], found[3]
    assert zero['no_target'] and coco_mask.area(zero['segmentation']) == 0
    union = decode(segmentations()[101], *IMAGES[11]) | decode(segmentations()[102], *IMAGES[11])
    np.testing.assert_array_equal(coco_mask.decode(many['segmentation']), union)
    assert not many['no_target'] and one['ann_id'] == [103]
    assert one['img_path'] == str(tmp_path / 'val2014' / file_name(ON_VAL2014).replace('train2014', 'val2014'))
    assert many['img_path'] == str(tmp_path / 'train2014' / file_name(11))
    assert one['expressions'] == ['The disc.']  # Raw text, as its authors read.


def test_one_folder_for_all_images_will_do(tmp_path):
    root = write_refzom(tmp_path)
    name = file_name(ON_VAL2014).replace('train2014', 'val2014')
    (root / 'val2014' / name).rename(root / 'train2014' / name)
    assert len(records(root, data_prefix=dict(img_path='train2014/', val_img_path='train2014/'))) == 8
    assert len(records(root, data_prefix=dict(img_path='train2014/'))) == 8
    with pytest.raises(FileNotFoundError, match='1 images of split .* are missing, the first is .*val2014'):
        RefZomDataset(str(root))


def test_an_item_that_means_something_must_name_it(tmp_path):
    root = write_refzom(tmp_path, lambda refs: refs[MANY].update(ann_id=[]))
    with pytest.raises(ValueError, match=r"refs\(final\).p: item 1 \(ref_id 2\) has the source 'many', but names no"):
        RefZomDataset(str(root))


def test_without_a_source_items_are_read_as_those_of_grefcoco(tmp_path):
    def change(refs):
        for ref in refs:
            del ref['source']
        refs[ZERO]['ann_id'] = [-1]

    assert [record['no_target'] for record in records(write_refzom(tmp_path, change))][:4] == [True] * 3 + [False]


def test_it_mixes_with_the_others_without_leaked_images(tmp_path):
    root = write_refzom(tmp_path, lambda refs: [ref.update(split='val') for ref in refs if ref['image_id'] == 12])
    write_toy_refer(root)
    mixed = MixedRefDataset([RefZomDataset(str(root)), RefCocoDataset(str(root))])
    # Image 12, which RefCOCO trains on under another name and in another folder, is one of Ref-ZOM's val.
    assert {mixed.get_data_info(index)['img_id'] for index in range(len(mixed))} == {11}
    assert issubclass(RefZomDataset, GRefCocoDataset)
