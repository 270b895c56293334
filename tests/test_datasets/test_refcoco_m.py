"""RefCOCO-M's records, from each of the files that they come in."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmetris.datasets import MixedRefDataset, RefCocoDataset, RefCocoMDataset
from tests.toy_refer import IMAGES, compressed_rle, disc, file_name, write_toy_refer


def records_of(image_ids=(12, 13)):
    """Two objects on each image: a disc, and what is around it."""
    records = []
    for image_id in image_ids:
        mask = disc(*IMAGES[image_id])
        samples = [
            dict(id=10 * image_id + i, image_id=image_id, sentences=texts, bbox=[0, 0, 1, 1], mask=compressed_rle(part))
            for i, (texts, part) in enumerate(((['the disc', 'round thing'], mask), (['the ground'], 1 - mask)))
        ]
        records.append(dict(file_name=file_name(image_id), image_id=image_id, samples=samples))
    return records


def write(root, records, name='records.json'):
    path = root / name
    if name.endswith('.parquet'):
        parquet = pytest.importorskip('pyarrow.parquet')
        parquet.write_table(pytest.importorskip('pyarrow').Table.from_pylist(records), path)
    elif name.endswith('.jsonl'):
        path.write_text(''.join(json.dumps(record) + '\n' for record in records))
    else:
        path.write_text(json.dumps(records))
    return name


@pytest.mark.parametrize('name', ['records.json', 'records.jsonl', 'validation-00000-of-00001.parquet'])
def test_each_sentence_is_scored_against_the_new_mask(tmp_path, name):
    root = write_toy_refer(tmp_path)
    dataset = RefCocoMDataset(str(root), write(root, records_of(), name), test_mode=True)
    found = [dataset.get_data_info(index) for index in range(len(dataset))]
    assert [record['expressions'] for record in found[:3]] == [['the disc'], ['round thing'], ['the ground']]
    assert len(found) == 6 and [record['sent_ids'] for record in found] == [[index] for index in range(6)]
    np.testing.assert_array_equal(coco_mask.decode(found[5]['segmentation']), 1 - disc(*IMAGES[13]))
    assert found[5]['img_path'] == str(root / 'train2014' / file_name(13)) and found[5]['img_id'] == 13
    assert dataset.split_names() == ['val']
    assert dataset.published_differences() == ['4 masks and 6 sentences, published are 2080 and 5598']


def test_several_files_are_one_data_set(tmp_path):
    root = write_toy_refer(tmp_path)
    for number, image_id in enumerate((11, 14)):
        write(root, records_of([image_id]), f'part-{number}.json')
    assert len(RefCocoMDataset(str(root), 'part-*.json', test_mode=True)) == 6


def test_its_images_are_left_out_of_a_mixture(tmp_path):
    root = write_toy_refer(tmp_path)
    name = write(root, records_of([12]))
    tested = dict(type='mmetris.RefCocoMDataset', data_root=str(root), ann_file=name)
    mixed = MixedRefDataset([RefCocoDataset(str(root))], leave_out=[tested])
    assert {mixed.get_data_info(index)['img_id'] for index in range(len(mixed))} == {11}


def spoiled(**change):
    records = records_of()
    records[1]['samples'][1].update(change)
    return records


@pytest.mark.parametrize(
    'records, message',
    [
        (dict(a=1), 'records.json holds a dict'),
        ([1], 'record 0 has no file_name or no samples'),
        ([dict(file_name='a.jpg', samples=3)], 'record 0 .* needs a name and a list of samples'),
        ([dict(file_name='a.jpg', samples=[dict(id=1)])], 'a sample without a list of sentences'),
        (spoiled(mask=None), 'record 1 .*sample 131 has no mask with a size'),
        (spoiled(mask=dict(size=[40, 40], counts='02')), 'sample 131: the mask cannot be read: its RLE has'),
        (spoiled(sentences=[' ']), 'sample 131 has an empty sentence'),
        (spoiled(sentences=[]), 'sample 131 has an empty sentence, or none'),
    ],
)
def test_mistakes_are_named_with_file_and_record(tmp_path, records, message):
    root = write_toy_refer(tmp_path)
    with pytest.raises(ValueError, match=message):
        RefCocoMDataset(str(root), write(root, records))


def test_missing_files_other_splits_and_endings_are_refused(tmp_path):
    root = write_toy_refer(tmp_path)
    with pytest.raises(FileNotFoundError, match=r'validation-\*.parquet does not exist'):
        RefCocoMDataset(str(root))
    with pytest.raises(ValueError, match="the split 'val' only, not 'train'"):
        RefCocoMDataset(str(root), split='train')
    (root / 'records.txt').touch()
    with pytest.raises(ValueError, match='read from .parquet, .json or .jsonl'):
        RefCocoMDataset(str(root), 'records.txt')
    (root / 'records.jsonl').write_text('{}\n{')
    with pytest.raises(ValueError, match='records.jsonl, line 2: no valid JSON'):
        RefCocoMDataset(str(root), 'records.jsonl')
    name = write(root, records_of([99][:0]) + [dict(file_name='gone.jpg', samples=records_of()[0]['samples'])])
    with pytest.raises(FileNotFoundError, match='the first is .*gone.jpg'):
        RefCocoMDataset(str(root), name)
