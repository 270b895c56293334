"""Folders of images and masks with a table of sentences."""

import json
import os

import cv2
import numpy as np
import pytest
from mmengine.registry import init_default_scope
from PIL import Image
from pycocotools import mask as coco_mask

from mmetris.datasets import MixedRefDataset, TableRefDataset, table
from mmetris.registry import DATASETS

HEIGHT, WIDTH = 40, 60


def write_folders(root):
    """Two pictures; one mask of its own, and a label map of two objects."""
    for name in ('images', 'masks'):
        (root / name).mkdir(parents=True)
    for index, name in enumerate(('a.png', 'b.jpg')):
        pixels = np.random.default_rng(index).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        cv2.imwrite(str(root / 'images' / name), pixels)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[5:15, 10:30] = 255
    cv2.imwrite(str(root / 'masks/a.png'), mask)
    labels = np.zeros((HEIGHT, WIDTH), np.uint16)
    labels[:10, :10], labels[20:, 40:] = 1, 700
    cv2.imwrite(str(root / 'masks/b.png'), labels)
    return mask, labels


ROWS = [
    dict(image='a.png', mask='a.png', sentence='the bright bar', split='train', mask_id=''),
    dict(image='b.jpg', mask='b.png', sentence='upper left, the corner', split='train', mask_id='1'),
    dict(image='a.png', mask='a.png', sentence='a bar', split='train', mask_id=''),
    dict(image='b.jpg', mask='b.png', sentence='lower right', split='val', mask_id='700'),
    dict(image='a.png', mask='', sentence='the elephant', split='train', mask_id=''),
]


def write_table(root, rows=ROWS, name='sentences.csv', mark=''):
    if name.endswith('.jsonl'):
        text = ''.join(json.dumps(row) + '\n\n' for row in rows)
    else:
        separator = '\t' if name.endswith('.tsv') else ','
        cells = [list(rows[0]), *(list(row.values()) for row in rows)]
        quoted = [[f'"{cell}"' if separator in str(cell) else str(cell) for cell in row] for row in cells]
        text = '\r\n'.join(separator.join(row) for row in quoted) + '\r\n'
    (root / name).write_bytes((mark + text).encode())
    return root


def records(root, **kwargs):
    dataset = TableRefDataset(str(root), **kwargs)
    return [dataset.get_data_info(index) for index in range(len(dataset))]


@pytest.mark.parametrize('name', ['sentences.csv', 'sentences.tsv', 'sentences.jsonl'])
@pytest.mark.parametrize('mark', ['', '\ufeff'])
def test_rows_of_one_mask_are_sentences_of_one_object(tmp_path, name, mark):
    mask, labels = write_folders(tmp_path)
    write_table(tmp_path, name=name, mark=mark)
    found = records(tmp_path, ann_file=name)
    assert [record['expressions'] for record in found] == [
        ['the bright bar', 'a bar'],
        ['upper left, the corner'],
        ['the elephant'],
    ]
    assert [record['no_target'] for record in found] == [False, False, True]
    for record, expected in zip(found, (mask > 0, labels == 1, np.zeros_like(mask))):
        np.testing.assert_array_equal(coco_mask.decode(record['segmentation']), expected)
    (last,) = records(tmp_path, ann_file=name, split='val', test_mode=True)
    np.testing.assert_array_equal(coco_mask.decode(last['segmentation']), labels == 700)
    assert len(records(tmp_path, ann_file=name, split=None, text_mode='original')) == 5


def test_it_trains_and_mixes_like_the_other_data_sets(tmp_path):
    write_folders(tmp_path)
    write_table(tmp_path)
    init_default_scope('mmetris')
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='Letterbox', size=(32, 32)),
        dict(type='TokenizeExpression', context_length=17),
        dict(type='PackSegInputs'),
    ]
    dataset = DATASETS.build(dict(type='TableRefDataset', data_root=str(tmp_path), pipeline=pipeline))
    sample = dataset[0]['data_samples']
    assert sample.gt_sem_seg.shape == (32, 32) and sample.expression in ('the bright bar', 'a bar')
    mixed = MixedRefDataset([TableRefDataset(str(tmp_path))])
    assert {mixed[index]['img_path'].endswith('a.png') for index in range(len(mixed))} == {True}  # b.jpg is in val.


def test_a_photograph_that_its_camera_turned_has_its_upright_size(tmp_path):
    write_folders(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((WIDTH, HEIGHT, 3), np.uint8)).save(tmp_path / 'images/a.jpg', exif=exif)
    write_table(tmp_path, [dict(ROWS[0], image='a.jpg')])
    init_default_scope('mmetris')
    pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    loaded = TableRefDataset(str(tmp_path), pipeline=pipeline)[0]
    assert loaded['img'].shape[:2] == loaded['gt_seg_map'].shape == (HEIGHT, WIDTH)


def test_a_palettes_numbers_are_the_mask(tmp_path):
    write_folders(tmp_path)
    numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
    numbers[3:6, 3:6] = 2
    image = Image.fromarray(numbers, mode='P')
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    image.save(tmp_path / 'masks/a.png')
    write_table(tmp_path, [dict(ROWS[0], mask_id='2')])
    (record,) = records(tmp_path)
    assert coco_mask.area(record['segmentation']) == 9


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(sentence='  '), 'line 3: the sentence is empty'),
        (dict(image='gone.png'), 'line 3: image .*gone.png does not exist'),
        (dict(mask='gone.png'), 'line 3: mask .*gone.png does not exist'),
        (dict(image='/etc/hosts'), "line 3: image '/etc/hosts' must be a path inside of"),
        (dict(mask='../images/a.png'), "line 3: mask '../images/a.png' must be a path inside of"),
        (dict(image=''), 'line 3: image is empty'),
        (dict(mask_id='5'), 'line 3: no pixel of .*b.png has the value 5; there are 0, 1, 700'),
        (dict(mask_id='one'), "line 3: mask_id 'one' is no positive whole number"),
        (dict(mask='small.png'), 'line 3: the mask .*small.png has 4 x 4 pixels .* 40 x 60'),
        (dict(mask='colour.png'), 'line 3: the mask .*colour.png has 3 channels'),
        (dict(mask='text.png'), 'line 3: mask .*text.png cannot be read as an image'),
        (dict(mask=''), "line 3: there is a mask_id .'1'., but no mask"),
        (dict(image='C:/a.png'), "line 3: image 'C:/a.png' must be a path inside of"),
    ],
)
def test_mistakes_are_named_with_file_and_line(tmp_path, change, message):
    write_folders(tmp_path)
    cv2.imwrite(str(tmp_path / 'masks/small.png'), np.ones((4, 4), np.uint8))
    cv2.imwrite(str(tmp_path / 'masks/colour.png'), np.full((HEIGHT, WIDTH, 3), (1, 2, 3), np.uint8))
    (tmp_path / 'masks/text.png').write_text('no image')
    write_table(tmp_path, [ROWS[0], {**ROWS[1], **change}])
    with pytest.raises((ValueError, FileNotFoundError), match=message) as info:
        TableRefDataset(str(tmp_path))
    assert 'sentences.csv' in str(info.value)


@pytest.mark.parametrize(
    'name, text, message',
    [
        ('t.csv', 'image,sentence\na.png,x\n', 'line 2: no column mask; there are image, sentence'),
        ('t.csv', 'image,mask,sentence\na.png,a.png\n', 'line 2: not as many cells'),
        ('t.csv', 'image,mask,sentence\na.png,a.png,x,y\n', 'line 2: not as many cells'),
        ('t.csv', 'image,mask,sentence\na.png,a.png,x\n', 'has no column split; give split=None'),
        ('t.csv', 'image,mask,sentence,split\na.png,a.png,x,test\n', "has no split 'train'. Present: test"),
        ('t.jsonl', '{"image": "a.png"\n', 'line 1: no valid JSON'),
        ('t.jsonl', '["a.png"]\n', 'line 1: a list, but an object'),
        ('t.xlsx', 'PK', 'its name must end with .csv'),
    ],
)
def test_other_tables_are_refused(tmp_path, name, text, message):
    write_folders(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        TableRefDataset(str(tmp_path), ann_file=name)


def test_a_missing_or_unreadable_table_is_named(tmp_path):
    write_folders(tmp_path)
    with pytest.raises(FileNotFoundError, match='sentences.csv does not exist'):
        TableRefDataset(str(tmp_path))
    (tmp_path / 'sentences.csv').write_bytes(b'image,mask,sentence\na.png,a.png,\xe9')
    with pytest.raises(ValueError, match='is no UTF-8'):
        TableRefDataset(str(tmp_path))


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_what_spreadsheets_write_is_read(tmp_path, encoding):
    write_folders(tmp_path)
    lines = [
        'image;mask; sentence ;split',
        'a.png;a.png;"the ""bar""; in\r\nthe middle";train',
        '',
        'a.png; a.png;ein Straßenstück;train',
        '',
    ]
    text = '\r\n'.join(lines)
    (tmp_path / 'sentences.csv').write_bytes(text.encode(encoding))
    (record,) = records(tmp_path)
    assert record['expressions'] == ['the "bar"; in\nthe middle', 'ein Straßenstück']
    assert record['sent_ids'] == [3, 5]  # Lines in the file; that of a row is its last one.


def test_json_lines_may_hold_any_letter_and_no_mask(tmp_path):
    write_folders(tmp_path)
    rows = [
        dict(image='a.png', mask=None, sentence='a\u2028b'),
        dict(image='b.jpg', mask='b.png', sentence='c', mask_id=1),
    ]
    (tmp_path / 'rows.jsonl').write_text(''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows))
    first, second = records(tmp_path, ann_file='rows.jsonl', split=None)
    assert first['no_target'] and first['expressions'] == ['a\u2028b']
    assert coco_mask.area(second['segmentation']) == 100
    assert TableRefDataset(str(tmp_path), 'rows.jsonl', split=None).split_names() == []


def test_a_label_map_is_decoded_once_for_its_objects(tmp_path, monkeypatch):
    write_folders(tmp_path)
    write_table(tmp_path, [dict(ROWS[1], mask_id=number, sentence=f'object {number}') for number in (1, 700)])
    decoded = []
    monkeypatch.setattr(
        table, '_numbers', lambda data, what, read=table._numbers: decoded.append(what) or read(data, what)
    )
    assert [int(coco_mask.area(record['segmentation'])) for record in records(tmp_path)] == [100, 400]
    assert len(decoded) == 1


@pytest.mark.parametrize(
    'rows, message',
    [
        ([dict(ROWS[0]), {key: ROWS[0][key] for key in ('image', 'mask', 'sentence')}], 'line 2: split is None'),
        ([dict(ROWS[0], image=['a.png'])], 'line 1: image is a list'),
        ([dict(ROWS[0], image=3)], 'line 1: image is 3, but the name of a file'),
        ([dict(ROWS[0], mask_id=dict(a=1))], 'line 1: mask_id is a dict'),
        ([dict(ROWS[0], sentence=None)], 'line 1: the sentence is empty'),
        ([], 'rows.jsonl has no rows'),
    ],
)
def test_values_of_other_types_are_refused(tmp_path, rows, message):
    write_folders(tmp_path)
    (tmp_path / 'rows.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    with pytest.raises(ValueError, match=message):
        TableRefDataset(str(tmp_path), 'rows.jsonl')


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    write_folders(tmp_path)
    (tmp_path / 'sentences.csv').write_text('image,mask,sentence,image\na,a,a,a\n')
    with pytest.raises(
        ValueError, match='sentences.csv, line 1: a column is there twice: image, mask, sentence, image'
    ):
        TableRefDataset(str(tmp_path))


def test_held_out_images_are_those_of_all_test_splits_by_one_reading(tmp_path, monkeypatch):
    write_folders(tmp_path)
    extra = dict(ROWS[0], split='testA'), dict(ROWS[3], split='')
    dataset = TableRefDataset(str(write_table(tmp_path, [*ROWS, *extra])), lazy_init=True)
    read, calls = table.read_table, []
    monkeypatch.setattr(table, 'read_table', lambda *args: calls.append(args) or read(*args))
    by_split = {name: set(dataset._images_of_split(name)) for name in ('train', 'val', 'testA')}
    calls.clear()
    assert dataset.held_out_images() == by_split['val'] | by_split['testA'] == dataset.held_out_images()
    assert len(calls) == 1 and by_split['val'] != by_split['testA']


def test_a_quote_that_is_not_closed_is_named_with_its_line(tmp_path):
    write_folders(tmp_path)
    write_table(tmp_path)
    with open(tmp_path / 'sentences.csv', 'a') as file:
        file.write('a.png,a.png,"the bar,train,')
    with pytest.raises(ValueError, match=r'sentences\.csv, line 7: unexpected end of data'):
        records(tmp_path)


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='this system has no named pipes')
@pytest.mark.parametrize('file', ['images/a.png', 'masks/a.png', 'sentences.csv'])
def test_pipes_are_called_so(tmp_path, file):
    write_folders(tmp_path)
    write_table(tmp_path)
    (tmp_path / file).unlink()
    os.mkfifo(tmp_path / file)
    with pytest.raises(ValueError, match=f'{file} is no ordinary file but a pipe'):
        records(tmp_path)
