"""Loading of images and masks."""

import json

import numpy as np
import pytest
from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader

from mmetris.datasets.transforms import LoadAnnotations, LoadImageFromFile, loading
from mmetris.registry import TRANSFORMS
from tests.toy_refer import IMAGES, decode, segmentations


def results(segmentation, height, width, **kwargs):
    return dict(
        segmentation=segmentation,
        height=height,
        width=width,
        seg_fields=[],
        reduce_zero_label=False,
        img_path='a.jpg',
        ann_id=7,
        **kwargs,
    )


@pytest.mark.parametrize(('ann_id', 'image_id'), [(101, 11), (102, 11), (103, 12), (104, 13), (105, 14)])
def test_every_form_of_mask_becomes_a_map_of_0_and_1(ann_id, image_id):
    height, width = IMAGES[image_id]
    loaded = LoadAnnotations()(results(segmentations()[ann_id], height, width))
    assert loaded['seg_fields'] == ['gt_seg_map'] and loaded['gt_seg_map'].dtype == np.uint8
    np.testing.assert_array_equal(loaded['gt_seg_map'], decode(segmentations()[ann_id], height, width))


def test_records_without_a_segmentation_go_mmseg_s_way(tmp_path):
    import cv2

    label_map = np.array([[0, 3], [255, 1]], np.uint8)
    cv2.imwrite(str(tmp_path / 'map.png'), label_map)
    loaded = LoadAnnotations()(dict(seg_map_path=str(tmp_path / 'map.png'), seg_fields=[], reduce_zero_label=False))
    np.testing.assert_array_equal(loaded['gt_seg_map'], label_map)


def test_an_image_of_another_size_than_annotated_is_refused():
    with pytest.raises(ValueError, match=r'a\.jpg \(ann_id 7\): the image has 8 x 9 pixels .* annotation says 10 x 10'):
        LoadAnnotations()(results([[1, 1, 5, 1, 5, 5]], 10, 10, ori_shape=(8, 9)))


def test_a_mask_that_cannot_be_read_is_refused_with_its_names():
    with pytest.raises(ValueError, match=r'a\.jpg \(ann_id 7\): the mask cannot be read: its RLE has size \[3, 3\]'):
        LoadAnnotations()(results(dict(size=[3, 3], counts=[9]), 10, 10))


@pytest.mark.parametrize('content', [b'', b'not an image', b'\xff\xd8\xff\xe0 cut'])
def test_an_unreadable_image_is_named(tmp_path, content):
    path = tmp_path / 'broken.jpg'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'broken\.jpg \(img_id 5\) cannot be read as an image'):
        LoadImageFromFile()(dict(img_path=str(path), img_id=5))


@pytest.fixture
def one_of_four_cut(tmp_path):
    """A data set of four pictures; the second file was cut off."""
    import cv2

    for index in range(4):
        cv2.imwrite(
            str(tmp_path / f'{index}.jpg'), np.random.default_rng(index).integers(0, 255, (40, 60, 3), np.uint8)
        )
    cut = tmp_path / '1.jpg'
    cut.write_bytes(cut.read_bytes()[:-200])

    def build(**kwargs):
        data_list = [dict(img_path=str(tmp_path / f'{index}.jpg'), img_id=index) for index in range(4)]
        (tmp_path / 'list.json').write_text(json.dumps(dict(metainfo={}, data_list=data_list)))
        load = dict(type='LoadImageFromFile', **kwargs.pop('load', {}))
        return BaseDataset(str(tmp_path / 'list.json'), pipeline=[load], **kwargs)

    init_default_scope('mmetris')
    return build


def test_a_file_that_was_cut_off_ends_the_training_by_name_also_in_a_worker(one_of_four_cut):
    loader = DataLoader(one_of_four_cut(), batch_size=1, num_workers=1, collate_fn=list)
    with pytest.raises(ValueError, match=r'1\.jpg \(img_id 1\) cannot be read as an image: image file is truncated'):
        list(loader)


def test_when_asked_for_it_is_passed_over_named_and_counted_in_training_alone(one_of_four_cut, monkeypatch):
    said = []
    monkeypatch.setattr(loading, 'print_log', lambda text, **kwargs: said.append(text))
    np.random.seed(0)
    dataset = one_of_four_cut(load=dict(ignore_empty=True))
    ids = [dataset[index]['img_id'] for index in (0, 1, 2, 3, 1)]
    assert ids[0] == 0 and ids[2:4] == [2, 3] and 1 not in ids
    assert '1.jpg (img_id 1) cannot be read as an image: image file is truncated' in said[0]
    assert len(said) == 2 and 'passed over, the 2. of this process' in said[1]
    with pytest.raises(Exception, match='should not get'):
        one_of_four_cut(load=dict(ignore_empty=True), test_mode=True)[1]


def test_a_missing_image_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='gone.jpg'):
        LoadImageFromFile()(dict(img_path=str(tmp_path / 'gone.jpg')))


def test_an_image_wanted_again_is_not_decoded_again(tmp_path, monkeypatch):
    import cv2
    import mmcv

    decoded, decode_image = [], mmcv.imfrombytes
    monkeypatch.setattr(mmcv, 'imfrombytes', lambda *args, **kwargs: decoded.append(1) or decode_image(*args, **kwargs))
    paths = [str(tmp_path / name) for name in ('a.png', 'b.png')]
    for value, path in enumerate(paths):
        cv2.imwrite(path, np.full((4, 6, 3), value, np.uint8))
    load = LoadImageFromFile(keep_last=True)
    for path, value in [(paths[0], 0), (paths[0], 0), (paths[1], 1), (paths[1], 1)]:
        loaded = load(dict(img_path=path))
        assert loaded['img_shape'] == loaded['ori_shape'] == (4, 6) and (loaded['img'] == value).all()
        loaded['img'][:] = 9  # What a later step does to it stays with that sample.
    assert len(decoded) == 2


def test_standard_names_give_ours_in_mmetris_and_mmseg_s_in_mmseg():
    init_default_scope('mmetris')
    from mmengine.registry import TRANSFORMS as ROOT

    assert type(ROOT.build(dict(type='LoadAnnotations'))) is LoadAnnotations
    assert type(TRANSFORMS.build(dict(type='mmseg.LoadAnnotations'))).__module__.startswith('mmseg.')
