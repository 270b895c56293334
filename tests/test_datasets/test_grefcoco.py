"""gRefCOCO's files: sentences that mean nothing, one object or several."""

import json
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.registry import init_default_scope
from pycocotools import mask as coco_mask

from mmetris.datasets import GRefCocoDataset, MixedRefDataset, RefCocoDataset, grefcoco, refcoco
from mmetris.registry import DATASETS
from tests.toy_refer import IMAGES, decode, segmentations, write_toy_refer

NOTHING, SEVERAL = 3, 0  # Items that are changed below.
SPLITS = ('train', 'val', 'testA', 'testB')


def write_grefs(root, change=None, pickled=False):
    """The toy set in gRefCOCO's layout: one sentence means two objects, one means nothing."""
    write_toy_refer(root, name='grefcoco')
    refs = pickle.loads((root / 'grefcoco' / 'refs(unc).p').read_bytes())
    for ref in refs:
        ref['ann_id'] = [ref['ann_id']]
        ref['no_target'] = False
    refs[SEVERAL]['ann_id'] = [101, 102]
    refs[NOTHING].update(ann_id=[-1], no_target=True)
    if change is not None:
        change(refs)
    if pickled:
        (root / 'grefcoco' / 'grefs(unc).p').write_bytes(pickle.dumps(refs))
    else:
        (root / 'grefcoco' / 'grefs(unc).json').write_text(json.dumps(refs))
    return root


def records(root, **kwargs):
    dataset = GRefCocoDataset(str(root), **kwargs)
    return [dataset.get_data_info(index) for index in range(len(dataset))]


def test_masks_are_the_union_of_none_one_or_several_annotations(tmp_path):
    root = write_grefs(tmp_path)
    refs = json.loads((root / 'grefcoco' / 'grefs(unc).json').read_text())
    found = [record for split in SPLITS for record in records(root, split=split)]
    assert len(found) == sum(len(ref['sentences']) for ref in refs)  # A sample for each sentence, also in training.
    by_ref = {record['ref_id']: record for record in found}
    both, none = by_ref[refs[SEVERAL]['ref_id']], by_ref[refs[NOTHING]['ref_id']]
    size = both['height'], both['width']
    union = decode(segmentations()[101], *size) | decode(segmentations()[102], *size)
    np.testing.assert_array_equal(coco_mask.decode(both['segmentation']), union)
    assert both['ann_id'] == [101, 102] and both['category_id'] == [2, 0] and not both['no_target']
    assert none['no_target'] and none['ann_id'] == [] and coco_mask.area(none['segmentation']) == 0
    assert none['expressions'] == [refs[NOTHING]['sentences'][-1]['raw']]  # The last of its samples.
    others = [ref for index, ref in enumerate(refs) if index not in (SEVERAL, NOTHING)]
    for ref in others:
        (ann_id,) = ref['ann_id']
        height, width = IMAGES[ref['image_id']]
        mask = coco_mask.decode(by_ref[ref['ref_id']]['segmentation'])
        np.testing.assert_array_equal(mask, decode(segmentations()[ann_id], height, width))


def test_a_sentence_without_target_is_trained_on_with_an_empty_mask(tmp_path):
    root = write_grefs(tmp_path)
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='Letterbox', size=(64, 64)),
        dict(type='TokenizeExpression', context_length=17),
        dict(type='PackSegInputs'),
    ]
    refs = json.loads((root / 'grefcoco' / 'grefs(unc).json').read_text())
    init_default_scope('mmetris')
    dataset = DATASETS.build(
        dict(type='GRefCocoDataset', data_root=str(root), split=refs[NOTHING]['split'], pipeline=pipeline)
    )
    samples = [dataset[index]['data_samples'] for index in range(len(dataset))]
    empty = [sample for sample in samples if sample.no_target]
    assert empty and all(int((sample.gt_sem_seg.data == 1).sum()) == 0 for sample in empty)
    assert any(not sample.no_target for sample in samples)


@pytest.mark.parametrize('ids', [-1, [-1], [], -1.0])
def test_nothing_is_written_in_several_ways(tmp_path, ids):
    def change(refs):
        refs[NOTHING].update(ann_id=ids)
        del refs[NOTHING]['no_target']

    root = write_grefs(tmp_path, change, pickled=isinstance(ids, list))
    split_file = 'grefcoco/grefs(unc).p' if isinstance(ids, list) else 'grefcoco/grefs(unc).json'
    found = [
        record
        for split in ('train', 'val', 'testA', 'testB')
        for record in records(root, split=split, split_file=split_file)
    ]
    assert sum(record['no_target'] for record in found) > 0


@pytest.mark.parametrize(
    'spoil, message',
    [
        (dict(ann_id=[101, -1]), r'item 0 \(ref_id 1\) has -1, which means no target, beside other ids'),
        (dict(ann_id=[101], no_target=True), 'has no_target=True, but ann_id'),
        (dict(ann_id=[], no_target=False), 'has no_target=False, but ann_id'),
        (dict(ann_id=[999]), 'refers to ann_id 999, which is not in'),
        (dict(ann_id=[103]), 'but its ann_id 103 is on image_id'),
        (dict(ann_id=[None]), 'ann_id that is no whole number'),
        (dict(sentences=[]), 'has no sentences'),
        (dict(sentences=[dict(raw='  ', sent_id=1)]), 'empty sentence'),
    ],
)
def test_mistakes_are_named_with_file_and_item(tmp_path, spoil, message):
    root = write_grefs(tmp_path, lambda refs: refs[SEVERAL].update(spoil))
    split = json.loads((root / 'grefcoco' / 'grefs(unc).json').read_text())[SEVERAL]['split']
    with pytest.raises(ValueError, match=message) as info:
        GRefCocoDataset(str(root), split=split)
    assert 'grefs(unc).json' in str(info.value)


def test_a_file_that_is_no_list_is_refused(tmp_path):
    root = write_grefs(tmp_path)
    (root / 'grefcoco' / 'grefs(unc).json').write_text('{"refs": []}')
    with pytest.raises(ValueError, match=r'grefs\(unc\).json holds a dict'):
        GRefCocoDataset(str(root))


def test_mixing_with_refcoco_leaves_out_what_either_tests_on(tmp_path):
    root = write_grefs(tmp_path)
    write_toy_refer(root)
    ours = GRefCocoDataset(str(root), split='train')
    mixed = MixedRefDataset([ours, RefCocoDataset(str(root), split='train')])
    held_out = GRefCocoDataset(str(root), split='val').held_out_images()
    assert held_out and not held_out & set(ours.image_keys()) and len(mixed) > 0


def count_calls(monkeypatch, module, name, counts):
    function = getattr(module, name)

    def counted(*args, **kwargs):
        counts[name] += 1
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, counted)


def test_the_work_for_a_thousand_images_grows_with_what_is_meant(tmp_path, monkeypatch):
    """Files and folders are read once, and a mask is drawn once for each of an item's annotations, and for a union."""
    root = tmp_path / 'large'
    (root / 'grefcoco').mkdir(parents=True)
    (root / 'train2014').mkdir()
    images, annotations, refs = [], [], []
    for index in range(1000):
        name = f'COCO_train2014_{index:012d}.jpg'
        (root / 'train2014' / name).touch()
        images.append(dict(id=index, file_name=name, height=480, width=640))
        for part in range(4):
            corner = 40 * part
            polygon = [corner, 10, corner + 30, 10, corner + 30, 90, corner, 90]
            annotations.append(dict(id=4 * index + part, image_id=index, category_id=1, segmentation=[polygon]))
        for part, ids in enumerate(([-1], [4 * index], [4 * index, 4 * index + 3])):
            sentence = dict(sent_id=3 * index + part, raw=f'the {part}', sent=f'the {part}')
            refs.append(dict(ref_id=3 * index + part, ann_id=ids, image_id=index, split='train', sentences=[sentence]))
    (root / 'grefcoco' / 'instances.json').write_text(json.dumps(dict(images=images, annotations=annotations)))
    (root / 'grefcoco' / 'grefs(unc).json').write_text(json.dumps(refs))
    counts = Counter()
    count_calls(monkeypatch, refcoco, 'segmentation_to_rle', counts)
    count_calls(monkeypatch, refcoco, 'load_instances', counts)
    count_calls(monkeypatch, grefcoco, 'load_refs', counts)
    count_calls(monkeypatch, refcoco.os, 'listdir', counts)
    dataset = GRefCocoDataset(str(root), split='train')
    # Nothing: an empty one; one: itself; two: each, and their union.
    assert counts == dict(segmentation_to_rle=1000 * (1 + 1 + 3), load_instances=1, load_refs=1, listdir=1)
    assert len(dataset) == 3000
    areas = [coco_mask.area(dataset.get_data_info(index)['segmentation']) for index in range(3)]
    assert areas == [0, 2400, 4800]


IDS = st.integers(-2, 3) | st.sampled_from([101, 102, 103, 101.0, 1.5, '101', None, True])


@settings(max_examples=80, deadline=None)
@given(ann_id=IDS | st.lists(IDS, max_size=3), no_target=st.none() | st.booleans())
def test_any_ids_are_their_union_or_refused(root_of_grefs, ann_id, no_target):
    """Of image 11, which has the annotations 101 and 102; 103 is on another image."""
    path = root_of_grefs / 'grefcoco' / 'grefs(unc).json'
    refs = json.loads((root_of_grefs / 'good.json').read_text())
    refs[0].update(ann_id=ann_id, no_target=no_target)
    path.write_text(json.dumps(refs))
    ids = ann_id if isinstance(ann_id, list) else [ann_id]
    meant = {float(value) for value in ids if isinstance(value, (int, float))} - {-1}
    right = (
        all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in ids)
        and meant <= {101, 102}
        and not (meant and -1 in ids)
        and no_target in (None, not meant)
    )
    try:
        (record, *_) = records(root_of_grefs)
    except ValueError as error:
        assert not right and 'ref_id 1' in str(error) and 'grefs(unc).json' in str(error)
        return
    assert right
    size = IMAGES[11]
    masks = [decode(segmentations()[int(value)], *size) for value in meant] or [np.zeros(size, np.uint8)]
    np.testing.assert_array_equal(coco_mask.decode(record['segmentation']), np.maximum.reduce(masks))
    assert record['no_target'] == (not meant)


@pytest.fixture(scope='module')
def root_of_grefs(tmp_path_factory):
    root = write_grefs(tmp_path_factory.mktemp('grefs'))
    (root / 'good.json').write_bytes((root / 'grefcoco' / 'grefs(unc).json').read_bytes())
    return root
