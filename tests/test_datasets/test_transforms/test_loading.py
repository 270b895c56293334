"""Loading of images and masks."""

import numpy as np
import pytest
from mmengine.registry import init_default_scope

from mmetris.datasets.transforms import LoadAnnotations, LoadImageFromFile
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
