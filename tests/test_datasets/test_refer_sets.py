"""RefCLEF and RRSIS-D: REFER's layout in other places, with a list of RLEs as mask."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmetris.datasets import RefClefDataset, RRSISDDataset
from tests.toy_refer import IMAGES, compressed_rle, decode, segmentations, write_toy_refer

FOLDERS = {RefClefDataset: ('refclef', 'images/saiapr_tc-12'), RRSISDDataset: ('rrsisd', 'images/rrsisd/JPEGImages')}


def write_set(root, kind, splits):
    """The toy set with every mask as a list of RLEs, in the folders of a data set; images are in folders of theirs."""
    name, folder = FOLDERS[kind]

    def change(instances, refs):
        sizes = {image['id']: (image['height'], image['width']) for image in instances['images']}
        for annotation in instances['annotations']:
            mask = decode(annotation['segmentation'], *sizes[annotation['image_id']])
            left, right = mask.copy(), mask.copy()
            left[:, mask.shape[1] // 2 :], right[:, : mask.shape[1] // 2] = 0, 0
            annotation['segmentation'] = [compressed_rle(left), compressed_rle(right)]
            annotation['categories_id'] = annotation.pop('category_id')  # As RRSIS-D has it.
        for image in instances['images']:
            image['file_name'] = f'{image["id"]}/images/{image["file_name"]}'
        for ref, split in zip(refs, splits):
            ref['split'] = split

    write_toy_refer(root, name, change=change)
    for image_id in IMAGES:
        target = root / folder / str(image_id) / 'images'
        target.mkdir(parents=True)
        (image,) = (root / 'train2014').glob(f'*{image_id}.jpg')
        image.rename(target / image.name)
    return root


@pytest.mark.parametrize('kind', FOLDERS)
def test_masks_are_the_union_of_the_list(tmp_path, kind):
    root = write_set(tmp_path, kind, ['train'] * 4 + ['val'] * 2 + ['test'])
    dataset = kind(str(root), text_mode='select_first')
    assert len(dataset) == 4 and dataset.split_names() == ['train', 'val', 'test']
    for index in range(4):
        record = dataset.get_data_info(index)
        expected = decode(segmentations()[record['ann_id']], record['height'], record['width'])
        np.testing.assert_array_equal(coco_mask.decode(record['segmentation']), expected)
        assert FOLDERS[kind][1] in record['img_path']


def test_an_object_of_two_test_splits_is_in_both(tmp_path):
    root = write_set(tmp_path, RefClefDataset, ['train'] * 4 + ['testAB', 'testB', 'testC'])
    found = {split: RefClefDataset(str(root), split=split, text_mode='select_first') for split in ('testA', 'testB')}
    refs = {split: [data.get_data_info(i)['ref_id'] for i in range(len(data))] for split, data in found.items()}
    assert refs == dict(testA=[5], testB=[5, 6])
    assert found['testA'].split_names() == ['train', 'testA', 'testB', 'testC']
    with pytest.raises(ValueError, match=r"no split 'val'. Present: train \(4 objects\), testAB \(1 objects\)"):
        RefClefDataset(str(root), split='val')
