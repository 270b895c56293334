"""PhraseCut's files: polygons of points for each instance, images called by Visual Genome's numbers."""

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmetris.datasets import MixedRefDataset, PhraseCutDataset, RefCocoDataset, phrasecut
from tests.toy_refer import write_toy_refer

HEIGHT, WIDTH = 30, 50


def square(left, top, side):
    return [[left, top], [left + side, top], [left + side, top + side], [left, top + side]]


TASKS = dict(
    train=[
        dict(
            task_id='7__1_2',
            image_id=7,
            ann_ids=[1, 2],
            phrase='wet dogs',
            Polygons=[[square(2, 3, 10)], [square(20, 3, 8), square(35, 3, 8)]],
        ),
        dict(task_id='7__3', image_id=7, ann_ids=[3], phrase='grass', Polygons=[[square(2, 20, 6)]]),
        dict(task_id='8__4', image_id=8, ann_ids=[4], phrase='left wheel', Polygons=[[square(0, 0, 9)]]),
    ],
    val=[dict(task_id='9__5', image_id=9, ann_ids=[5], phrase='sky', Polygons=[[square(0, 0, 20)]])],
)


def write_phrasecut(root, tasks=TASKS):
    (root / 'images').mkdir(parents=True)
    for number in (7, 8, 9):
        cv2.imwrite(str(root / 'images' / f'{number}.jpg'), np.full((HEIGHT, WIDTH, 3), number, np.uint8))
    for split, content in tasks.items():
        (root / f'refer_{split}.json').write_text(json.dumps(content))
    return root


def test_a_mask_is_the_union_of_all_polygons_of_all_instances(tmp_path):
    dataset = PhraseCutDataset(str(write_phrasecut(tmp_path)))
    found = [dataset.get_data_info(index) for index in range(len(dataset))]
    assert [record['expressions'] for record in found] == [['wet dogs'], ['grass'], ['left wheel']]
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[3:13, 2:12] = expected[3:11, 20:28] = expected[3:11, 35:43] = 1
    np.testing.assert_array_equal(coco_mask.decode(found[0]['segmentation']), expected)
    assert found[2]['img_path'] == str(tmp_path / 'images' / '8.jpg') and found[0]['ann_id'] == [1, 2]
    assert dataset.split_names() == ['train', 'val']
    assert 'train has 3 phrases, published are 310816' in dataset.published_differences()


def test_images_are_recognised_as_those_of_coco(tmp_path, monkeypatch):
    root = write_phrasecut(tmp_path / 'phrasecut')
    messages = []
    monkeypatch.setattr(phrasecut, 'print_log', lambda message, **kwargs: messages.append(message))
    coco = write_toy_refer(tmp_path / 'refer')  # Trains on images 11 and 12, validates on 13.

    def numbers(mixed):
        return [mixed.get_data_info(index)['img_id'] for index in range(len(mixed))]

    parts = [dict(type='mmetris.PhraseCutDataset', data_root=str(root)), RefCocoDataset(str(coco))]
    assert numbers(MixedRefDataset(parts)) == [7, 7, 8, 11, 11, 12, 12]
    assert len(messages) == 1 and 'image_data_split.json is not there' in messages[0]
    info = [dict(image_id=7, coco_id=13), dict(image_id=8, coco_id=None), dict(image_id=9, coco_id=12)]
    (root / 'image_data_split.json').write_text(json.dumps(info))
    assert numbers(MixedRefDataset(parts)) == [8, 11, 11]
    (root / 'image_data_split.json').write_text('[{"image_id": 7}]')
    with pytest.raises(ValueError, match='image_data_split.json is no list of images'):
        MixedRefDataset(parts)


@pytest.mark.parametrize(
    'spoil, message',
    [
        (dict(phrase='  '), r'refer_train.json: item 1 \(task_id 7__3\) has an empty phrase'),
        (dict(image_id='seven'), 'item 1 .* has an image_id that is no whole number'),
        (dict(Polygons=[[[1, 2, 3, 4, 5, 6]]]), r'item 1 .*a polygon is a list of points \[x, y\]'),
        (dict(Polygons=[[square(1e9, 0, 5)]]), 'item 1 .*is no coordinate in an image'),
        (dict(Polygons=3), 'item 1 .*a int stands where a list of instances'),
        (dict(Polygons=[3]), 'a int stands where a list of polygons'),
        (dict(image_id=99), 'item 1 .*: image .*99.jpg does not exist'),
    ],
)
def test_mistakes_are_named_with_file_and_item(tmp_path, spoil, message):
    tasks = [TASKS['train'][0], {**TASKS['train'][1], **spoil}]
    root = write_phrasecut(tmp_path, dict(train=tasks))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        PhraseCutDataset(str(root))


def test_files_of_another_form_are_refused(tmp_path):
    root = write_phrasecut(tmp_path, dict(train=[3], val=[dict(phrase='a')], test=dict(a=1)))
    for split, message in (
        ('train', 'item 0 is a int'),
        ('val', 'item 0 has no image_id, Polygons'),
        ('test', 'a dict'),
    ):
        with pytest.raises(ValueError, match=message):
            PhraseCutDataset(str(root), split=split)
    with pytest.raises(FileNotFoundError, match="refer_miniv.json does not exist. Expected there: PhraseCut's phrases"):
        PhraseCutDataset(str(root), split='miniv')
    with pytest.raises(FileNotFoundError, match='data_root .* does not exist'):
        PhraseCutDataset(str(root / 'nowhere'))
