"""REFER's files are read as they are; a pickle that is more than plain data is refused before anything runs."""

import collections
import json
import os
import pickle
from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmetris.datasets import refer
from tests.toy_refer import (
    write_toy_refer,
)

plain_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=15,
)


class TestUnpickler:
    @settings(deadline=None, max_examples=100)
    @given(data=plain_data, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
    def test_plain_data_comes_back_whatever_the_protocol(self, tmp_path_factory, data, protocol):
        path = tmp_path_factory.getbasetemp() / 'plain.p'
        path.write_bytes(pickle.dumps(data, protocol=protocol))
        assert refer.load_plain_pickle(str(path)) == data

    def test_sets_and_bytes_are_plain_where_the_protocol_has_them(self, tmp_path):
        path = tmp_path / 'plain.p'
        path.write_bytes(pickle.dumps({'a': {1, 2}, 'b': b'\x00\xff'}, protocol=4))
        assert refer.load_plain_pickle(str(path)) == {'a': {1, 2}, 'b': b'\x00\xff'}

    @pytest.mark.parametrize(
        ('written', 'expected'),
        [
            (b"(dp0\nS'sent'\np1\nS'left dog'\np2\ns.", {'sent': 'left dog'}),  # protocol 0, str
            (b"(dp0\nS'sent'\np1\nS'caf\\xc3\\xa9'\np2\ns.", {'sent': 'café'}),  # str in UTF-8
            (b"(dp0\nS'sent'\np1\nS'caf\\xe9'\np2\ns.", {'sent': 'café'}),  # str in Latin-1
            (b"(dp0\nS'sent'\np1\nVcaf\\u00e9\np2\ns.", {'sent': 'café'}),  # unicode
            (b'\x80\x02}q\x00U\x04sentq\x01U\x03dogq\x02s.', {'sent': 'dog'}),  # protocol 2, str
            (b"(dp0\nS'ref_id'\np1\nL12L\ns.", {'ref_id': 12}),  # long
        ],
    )
    def test_pickles_of_python_2_are_read(self, tmp_path, written, expected):
        path = tmp_path / 'refs.p'
        path.write_bytes(written)
        assert refer.load_plain_pickle(str(path)) == expected

    @pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
    @pytest.mark.parametrize(
        'value',
        [
            os.system,
            eval,
            date(2020, 1, 1),
            collections.OrderedDict(a=1),
            collections.Counter('a'),
            np.float64(1),
            np.zeros(2),
            complex(1, 2),
            Exception('x'),
            range(3),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_whatever_names_a_class_or_function_is_refused(self, tmp_path, value, protocol):
        path = tmp_path / 'refs.p'
        path.write_bytes(pickle.dumps([{'sent': value}], protocol=protocol))
        with pytest.raises(pickle.UnpicklingError, match=r'refs\.p: refused, because it names [\w.]+'):
            refer.load_plain_pickle(str(path))

    @pytest.mark.parametrize(
        'template',
        [
            b"cos\nsystem\n(S'touch {}'\ntR.",  # GLOBAL, REDUCE
            b"(S'touch {}'\nios\nsystem\n.",  # INST
            b"(cos\nsystem\nS'touch {}'\no.",  # OBJ
            b'\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x00\x85R.',  # STACK_GLOBAL
            b'\x80\x02cbuiltins\neval\nU\x01x\x85\x81.',  # NEWOBJ
        ],
    )
    def test_an_attack_is_refused_and_nothing_is_executed(self, tmp_path, template):
        path, mark = tmp_path / 'refs.p', tmp_path / 'executed'
        path.write_bytes(template.replace(b'{}', str(mark).encode()))
        with pytest.raises(pickle.UnpicklingError, match='(os|builtins).(system|eval)'):
            refer.load_refs(str(path))
        assert not mark.exists()

    @pytest.mark.parametrize('written', [b"S'id'\nQ.", b'Pid\n.'])
    def test_references_out_of_the_file_are_refused(self, tmp_path, written):
        path = tmp_path / 'refs.p'
        path.write_bytes(written)
        with pytest.raises(pickle.UnpicklingError, match='refs.p: refused'):
            refer.load_plain_pickle(str(path))

    @settings(deadline=None, max_examples=150)
    @given(st.binary(max_size=60))
    def test_bytes_that_are_no_pickle_raise_an_error_that_names_the_file(self, tmp_path_factory, data):
        path = tmp_path_factory.getbasetemp() / 'broken.p'
        path.write_bytes(data)
        try:
            refer.load_plain_pickle(str(path))
        except (ValueError, pickle.UnpicklingError) as error:
            assert 'broken.p' in str(error)

    def test_a_cut_file_is_no_complete_pickle(self, tmp_path):
        write_toy_refer(tmp_path)
        path = tmp_path / 'refcoco' / 'refs(unc).p'
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(ValueError, match=r'refs\(unc\)\.p is no complete pickle'):
            refer.load_refs(str(path))

    def test_a_missing_file_is_named_with_what_belongs_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r'gone\.p does not exist.*pickled list of refs.*refer'):
            refer.load_refs(str(tmp_path / 'gone.p'))


class TestRefs:
    @pytest.mark.parametrize(
        ('content', 'message'),
        [
            ({}, 'holds a dict'),
            ([3], 'item 0 is a int'),
            ([{'ref_id': 7, 'ann_id': 1, 'split': 'val'}], r'item 0 \(ref_id 7\) has no image_id, sentences'),
            (
                [{'ref_id': 7, 'ann_id': (), 'image_id': 2, 'split': 'val', 'sentences': []}],
                'id that is no whole number',
            ),
            ([{'ref_id': 7, 'ann_id': 1, 'image_id': 2, 'split': 3, 'sentences': []}], 'a string as split'),
        ],
    )
    def test_items_that_are_no_refs_are_refused(self, tmp_path, content, message):
        path = tmp_path / 'refs.p'
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match=message):
            refer.load_refs(str(path))

    @pytest.fixture
    def refs(self, tmp_path):
        return refer.load_refs(str(write_toy_refer(tmp_path) / 'refcoco' / 'refs(unc).p'))

    def test_an_unknown_split_lists_those_present(self, refs):
        with pytest.raises(
            ValueError, match=r"r\.p has no split 'test'\. Present: train \(4 objects\), val \(1 objects\), testA"
        ):
            refer.select_split(refs, 'test', 'r.p')

    def test_splits_are_counted_and_held_out_ones_found(self, refs):
        assert refer.count_split(refs) == dict(train=(4, 8, 2), val=(1, 3, 1), testA=(1, 1, 1), testB=(1, 2, 1))
        assert refer.held_out_splits(refs) == ['val', 'testA', 'testB']

    def test_counts_are_compared_with_the_published_ones(self):
        refs = [dict(split='train', image_id=1, sentences=[{}] * 3)] * 42278 + [
            dict(split='val', image_id=2, sentences=[{}])
        ]
        differences = refer.compare_with_published('refcoco+', 'unc', refs)
        assert differences[0] == 'train has 126834 sentences, published are 120191 or 120624'
        assert differences[1] == 'val has 1 objects, published are 3805'
        assert 'testB has 0 sentences, published are 4889' in differences
        assert refer.published_name('data/refcoco+/refs(unc).p') == ('refcoco+', 'unc')
        assert refer.published_name('refcocog/refs(google).p') == ('refcocog', 'google')
        assert refer.published_name('refcoco/refs(umd).p') is refer.published_name('refcoco/refs.p') is None
        with pytest.raises(KeyError, match='No published counts for shapes'):
            refer.compare_with_published('shapes', 'unc', refs)


def _strict_json(data):
    """As orjson reads: UTF-8 without mark, RFC 8259, numbers of 64 bits."""
    if data.startswith(b'\xef\xbb\xbf') or b'NaN' in data or b'ud800' in data or b'901234567890' in data:
        raise json.JSONDecodeError('refused', '', 0)
    return json.loads(data.decode('utf-8'))


class TestInstances:
    def test_images_and_annotations_are_found_by_id(self, tmp_path):
        instances = refer.load_instances(str(write_toy_refer(tmp_path) / 'refcoco' / 'instances.json'))
        assert instances.images[12]['height'] == 64
        assert instances.annotations[103]['image_id'] == 12

    @pytest.mark.parametrize(
        ('content', 'message'),
        [
            ('{"images": [', 'no valid JSON'),
            ('{"images": []}', "COCO's layout"),
            ('[]', "COCO's layout"),
            ('{"images": [{"file_name": "a"}], "annotations": []}', "COCO's layout"),
        ],
    )
    def test_other_files_are_refused(self, tmp_path, content, message):
        path = tmp_path / 'instances.json'
        path.write_text(content)
        with pytest.raises(ValueError, match=f'instances.json is .*{message}'):
            refer.load_instances(str(path))

    def test_two_items_of_one_id_are_refused(self, tmp_path):
        def repeat(instances, refs):
            instances['annotations'][3]['id'] = 102

        write_toy_refer(tmp_path, change=repeat)
        with pytest.raises(ValueError, match='instances.json has several annotations with id 102'):
            refer.load_instances(str(tmp_path / 'refcoco' / 'instances.json'))

    @pytest.mark.parametrize('form', ['plain', 'byte order mark', 'utf-16', 'NaN', 'lone surrogate', 'large number'])
    def test_both_json_readers_give_the_same(self, tmp_path, monkeypatch, form):
        path = write_toy_refer(tmp_path) / 'refcoco' / 'instances.json'
        text = path.read_text()
        change = {
            'NaN': '{"extra": NaN, ',
            'lone surrogate': '{"extra": "\\ud800", ',
            'large number': '{"extra": 123456789012345678901234567890, ',
        }
        text = change.get(form, '{') + text[1:]
        path.write_text(text, encoding={'utf-16': 'utf-16', 'byte order mark': 'utf-8-sig'}.get(form, 'utf-8'))
        # The faster package, as if it were there: it refuses all but the first.
        found = []
        for fast in (None, _strict_json):
            monkeypatch.setattr(refer, '_fast_json', fast)
            found.append(refer.load_instances(str(path)))
        assert found[0] == found[1] and found[0].annotations[103]['image_id'] == 12

    def test_whole_numbers_with_a_fraction_of_zero_are_ids(self, tmp_path):
        """pandas writes them so, in columns with gaps."""

        def as_floats(instances, refs):
            for image in instances['images']:
                image.update(id=float(image['id']), height=float(image['height']), width=float(image['width']))
            for annotation in instances['annotations']:
                annotation.update(id=float(annotation['id']), image_id=float(annotation['image_id']))
            for ref in refs:
                ref.update({key: float(ref[key]) for key in ('ref_id', 'ann_id', 'image_id')})

        plain = write_toy_refer(tmp_path / 'plain') / 'refcoco'
        floats = write_toy_refer(tmp_path / 'floats', change=as_floats) / 'refcoco'
        ours, expected = (
            (refer.load_instances(str(root / 'instances.json')), refer.load_refs(str(root / 'refs(unc).p')))
            for root in (floats, plain)
        )
        assert repr(ours) == repr(expected)  # 1 and 1.0 are equal, and written otherwise.

    @pytest.mark.parametrize('value, message', [([103], 'has a list as ann_id, as gRefCOCO'), (1.5, 'no whole number')])
    def test_other_ids_are_refused_by_name(self, tmp_path, value, message):
        root = write_toy_refer(tmp_path, change=lambda instances, refs: refs[0].update(ann_id=value))
        with pytest.raises(ValueError, match=message):
            refer.load_refs(str(root / 'refcoco' / 'refs(unc).p'))


def test_an_image_of_coco_is_recognised_under_its_names_and_others_by_path():
    key = refer.image_key('data/coco/train2014/COCO_train2014_000000123456.jpg')
    assert key == refer.image_key('elsewhere/000000123456.jpg')
    assert key != refer.image_key('data/coco/train2014/COCO_train2014_000000123457.jpg')
    assert refer.image_key('a/000123.jpg') != refer.image_key('b/000123.jpg')
