"""Exports of LabelMe, CVAT and COCO become masks and a table; pictures and what is there are left alone."""

import csv
import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from mmetris.cli import mmetris_command, run
from mmetris.datasets import TableRefDataset, importing
from mmetris.datasets.importing import import_export, split_of
from mmetris.datasets.table import read_table
from tests.toy_exports import (
    HEIGHT,
    WIDTH,
    coco_file,
    cvat_text,
    labelme_file,
    masks,
    write_coco,
    write_cvat,
    write_labelme,
)

WRITERS = dict(labelme=write_labelme, cvat=write_cvat, coco=write_coco)


def read_back(export, out, table='sentences.csv', **kwargs):
    """Sentence -> mask, by the data set itself."""
    prefix = dict(img_path=str(export.folder_of_images()), seg_map_path='masks/')
    data = TableRefDataset(str(out), table, prefix, text_mode='original', **kwargs)
    records = [data.get_data_info(index) for index in range(len(data))]
    return {record['expressions'][0]: coco_mask.decode(record['segmentation']) for record in records}


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


@pytest.mark.parametrize('kind', WRITERS)
def test_sentences_mean_what_was_drawn_and_pictures_stay_as_they_are(tmp_path, kind):
    source = WRITERS[kind](tmp_path / 'export')
    before = contents(tmp_path / 'export')
    text = 'phrase' if kind == 'cvat' else None
    export, rows = import_export(kind, source, tmp_path / 'out', text=text, split='train')
    found = read_back(export, tmp_path / 'out')
    for sentence, mask in masks().items():
        np.testing.assert_array_equal(found[sentence], mask)
    assert contents(tmp_path / 'export') == before
    # Each object has a mask of its own, and sentences of the same objects share one.
    assert rows.masks == len(list((tmp_path / 'out/masks').iterdir()))
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['masks', 'sentences.csv']
    for path in (tmp_path / 'out/masks').iterdir():
        assert np.asarray(Image.open(path)).dtype == np.uint8 and path.stat().st_mode & 0o044


def test_circles_and_turned_boxes(tmp_path):
    source = write_cvat(tmp_path / 'export')
    export, rows = import_export('cvat', source, tmp_path / 'out', text='phrase')
    assert rows.sentences == dict(train=3, val=2)  # By CVAT's subsets.
    found = read_back(export, tmp_path / 'out', split='val')
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[9:19, 13:17] = 1  # 10 x 4 pixels around (15, 14), turned by a quarter.
    np.testing.assert_array_equal(found['bar'], expected)
    rows_, columns = np.mgrid[:HEIGHT, :WIDTH]
    disc = (columns + 0.5 - 25) ** 2 + (rows_ + 0.5 - 15) ** 2 <= 25
    np.testing.assert_array_equal(found['disc'], disc)
    source = write_labelme(tmp_path / 'labelme')
    export, _ = import_export('labelme', source, tmp_path / 'other')
    np.testing.assert_array_equal(read_back(export, tmp_path / 'other')['disc'], disc)


def test_what_is_left_out_is_counted_and_the_first_is_named(tmp_path):
    export, _ = import_export('coco', write_coco(tmp_path / 'export'), tmp_path / 'out')
    assert dict(export.left_out) == {'without an area': 1, 'without a sentence': 1}
    assert 'annotation 4' in export.first_left_out['without an area']


@pytest.mark.parametrize('table', ['a.csv', 'a.tsv', 'a.jsonl'])
def test_every_kind_of_table_is_read_again(tmp_path, table):
    content = coco_file()
    sentence = 'the "second", from\tthe left; große Straße'
    content['annotations'][0]['attributes']['caption'] = sentence
    export, _ = import_export('coco', write_coco(tmp_path / 'export', content), tmp_path / 'out', table=table)
    assert sentence in read_back(export, tmp_path / 'out', table)


def test_sentences_are_found_under_a_given_name_and_separated(tmp_path):
    content = coco_file()
    content['annotations'][0]['attributes'] = dict(words='one | two', caption='other')
    source = write_coco(tmp_path / 'export', content)
    import_export('coco', source, tmp_path / 'out', text='words', separator='|')
    assert [row['sentence'] for row in read_table(str(tmp_path / 'out/sentences.csv'))] == ['one', 'two']
    import_export('coco', source, tmp_path / 'classes', text='label')
    assert {row['sentence'] for row in read_table(str(tmp_path / 'classes/sentences.csv'))} == {'box', 'corner'}
    with pytest.raises(ValueError, match="named 'phrase'. With text are: .*caption.*; --text NAME says which one"):
        import_export('coco', source, tmp_path / 'none', text='phrase')
    assert not (tmp_path / 'none').exists()


def test_a_picture_keeps_its_split_whatever_others_come(tmp_path):
    names = [f'{index}.jpg' for index in range(2000)]
    shares = dict(val=0.1, test=0.2)
    splits = [split_of(name, shares, 'train') for name in names]
    assert [splits.count(name) / 2000 for name in ('val', 'test')] == pytest.approx([0.1, 0.2], abs=0.03)
    assert splits[:100] == [split_of(name, shares, 'train') for name in names[:100]]
    digest = hashlib.sha256(b'a.png').hexdigest()  # The rule that is documented, and may not change between versions.
    assert split_of('a.png', dict(val=int(digest[:16], 16) / 2**64 + 1e-9), 'train') == 'val'
    assert split_of('a.png', dict(val=int(digest[:16], 16) / 2**64 - 1e-9), 'train') == 'train'


def test_nothing_that_is_there_is_replaced_unasked(tmp_path):
    source = write_coco(tmp_path / 'export')
    import_export('coco', source, tmp_path / 'out')
    before = contents(tmp_path / 'out')
    with pytest.raises(FileExistsError, match='sentences.csv is there already; --overwrite replaces it'):
        import_export('coco', source, tmp_path / 'out')
    with pytest.raises(FileExistsError, match='masks/a_1.png is there already, and 2 more'):
        import_export('coco', source, tmp_path / 'out', table='other.csv')
    assert contents(tmp_path / 'out') == before
    import_export('coco', source, tmp_path / 'out', split='val', overwrite=True)
    assert {row['split'] for row in read_table(str(tmp_path / 'out/sentences.csv'))} == {'val'}


def test_an_error_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    source = write_coco(tmp_path / 'export')
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'notes.txt').write_text('mine')
    content = json.loads(source.read_text())
    content['annotations'].append(dict(id=9, image_id=2, segmentation=[[1, 2, 3]], caption='broken'))
    source.write_text(json.dumps(content))
    with pytest.raises(ValueError, match='annotation 9: a polygon has an odd number'):
        import_export('coco', source, tmp_path / 'out')
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['notes.txt']

    def fail(*args):
        raise KeyboardInterrupt

    source.write_text(json.dumps(coco_file()))
    monkeypatch.setattr(importing, 'masks_of', fail)
    with pytest.raises(KeyboardInterrupt):
        import_export('coco', source, tmp_path / 'new')
    assert not (tmp_path / 'new').exists()


def spoiled_labelme(**change):
    def write(root):
        source = write_labelme(root)
        content = labelme_file()
        content['shapes'][0].update({key: value for key, value in change.items() if key in ('points', 'shape_type')})
        content.update({key: value for key, value in change.items() if key not in ('points', 'shape_type')})
        (source / 'a.json').write_text(json.dumps(content))
        return source

    return write


def spoiled_cvat(old, new):
    return lambda root: write_cvat(root, cvat_text().replace(old, new))


@pytest.mark.parametrize(
    'kind, write, message',
    [
        ('labelme', spoiled_labelme(shapes=3), "a.json is no file of LabelMe: it has no list 'shapes'"),
        ('labelme', spoiled_labelme(shapes=[3]), 'a.json: shape 0 is a int'),
        ('labelme', spoiled_labelme(imagePath=''), 'a.json has no imagePath'),
        ('labelme', spoiled_labelme(imagePath='../images/c.png'), 'c.png does not exist; --images names another'),
        ('labelme', spoiled_labelme(imageHeight=31), r'a.png has 30 x 50 pixels \(H x W\), .* says 31 x 50'),
        ('labelme', spoiled_labelme(points=[[1, 2, 3]]), r'shape 0: its points are no list of pairs'),
        ('labelme', spoiled_labelme(points=[[1, 1], [5e9, 1], [1, 9]]), 'shape 0: 5.* is no coordinate'),
        ('labelme', spoiled_labelme(shape_type='rectangle'), 'shape 0: a rectangle has two points, but here are 4'),
        ('labelme', spoiled_labelme(shape_type='star'), "shape 0: the shape_type 'star' is not known"),
        ('labelme', spoiled_labelme(shape_type='mask', points=[[1, 1], [2, 2]]), 'its mask is no picture'),
        ('cvat', spoiled_cvat('annotations>', 'things>'), 'begins with <things>'),
        ('cvat', spoiled_cvat('</annotations>', ''), 'annotations.xml is no valid XML'),
        ('cvat', spoiled_cvat('<annotations>', '<!DOCTYPE a><annotations>'), 'declares a document type'),
        ('cvat', spoiled_cvat('<version>', '<track id="0"></track><version>'), 'is an export "CVAT for video"'),
        ('cvat', spoiled_cvat('sub/b.png', '../b.png'), "the picture '../b.png' must be a path inside of"),
        ('cvat', spoiled_cvat('sub/b.png', 'c.png'), "image 'c.png': the picture .*c.png does not exist"),
        ('cvat', spoiled_cvat('1, 1, 4', '1, 1, 5'), r'region 3 \(mask\): the runs of its rle'),
        ('cvat', spoiled_cvat('xtl="30.0"', 'xtl="left"'), r'region 2 \(box\): xtl, ytl, xbr, ybr must be numbers'),
        ('cvat', spoiled_cvat('left="20"', 'left="-2"'), r'region 3 \(mask\): its mask begins at \(-2, 10\)'),
        (
            'cvat',
            spoiled_cvat('<tag label="good"></tag>', '<sketch></sketch>'),
            r'region 5 \(sketch\): <sketch> is not',
        ),
    ],
)
def test_mistakes_are_named_with_file_and_place(tmp_path, kind, write, message):
    source = write(tmp_path / 'export')
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        import_export(kind, source, tmp_path / 'out', text='phrase' if kind == 'cvat' else None)
    assert not (tmp_path / 'out').exists()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize('kind', ['labelme', 'coco'])
def test_any_value_in_any_place_is_read_or_refused(tmp_path_factory, kind, data):
    root = tmp_path_factory.mktemp('export')
    source = WRITERS[kind](root)
    path = source / 'a.json' if kind == 'labelme' else source
    content = json.loads(path.read_text())
    lists = [content, *content['shapes']] if kind == 'labelme' else [*content['images'], *content['annotations']]
    place = data.draw(st.sampled_from(lists))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(JSON_VALUES)
    path.write_text(json.dumps(content))
    try:
        import_export(kind, source, root / 'out')
    except (ValueError, FileNotFoundError) as error:
        assert str(root) in str(error)


SENTENCES = st.text(st.characters(exclude_categories=['Cs', 'Cc']), min_size=1).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(SENTENCES, st.sampled_from(['train', 'val'])), min_size=1, max_size=5))
@pytest.mark.parametrize('ending', ['.csv', '.tsv', '.jsonl'])
def test_what_is_written_is_read(tmp_path_factory, rows, ending):
    path = tmp_path_factory.mktemp('table') / f'a{ending}'
    table = [dict(image='a.png', mask='a_1.png', sentence=text, split=split) for text, split in rows]
    path.write_text(importing._as_table(table, ending), encoding='utf-8', newline='')
    found = [(row['sentence'].strip(), row['split']) for row in read_table(str(path))]
    assert found == [(text.strip(), split) for text, split in rows]


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_cvat(tmp_path / 'export')

    def call(*arguments):
        try:
            run(mmetris_command, ['data', 'import', *arguments])
            status = 0
        except SystemExit as error:
            status = error.code
        return (status, *capsys.readouterr())

    status, out, err = call('cvat', 'export', 'mine', '--text', 'phrase')
    assert status == 0 and '2 pictures, 5 masks, 5 sentences (3 in train, 2 in val)' in out
    assert 'warning: 1 regions without an area are left out; the first: export/annotations.xml' in err
    assert f"data_prefix=dict(img_path='{tmp_path}/export/images/', seg_map_path='masks/')" in out
    with open('mine/sentences.csv', newline='') as file:
        assert next(csv.DictReader(file))['image'] == 'a.png'
    status, out, err = call('cvat', 'export', 'mine', '--text', 'phrase')
    assert status == 2 and err.startswith('error: mine/sentences.csv is there already') and err.count('\n') == 1
    for arguments, message in (
        (('cvat', 'nowhere', 'new'), 'nowhere does not exist'),
        (('cvat', 'export', 'new', '--images', 'nowhere'), 'the folder of pictures nowhere does not exist'),
        (('cvat', 'export', 'new', '--val', '0.6', '--test', '0.6'), 'are more than all pictures'),
        (('cvat', 'export', 'new', '--table', 'a.txt'), "the table 'a.txt' needs a file name that ends"),
        (('cvat', 'export', 'new', '--table', '../a.csv'), "the table '../a.csv' needs a file name"),
        (('coco', 'export', 'new'), 'export is a folder'),
        (('yolo', 'export', 'new'), 'yolo'),
    ):
        status, _, err = call(*arguments)
        assert status == 2 and message in err and not (tmp_path / 'new').exists()
