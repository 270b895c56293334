"""Pictures of one sentence, text in them, and the sheet of many pictures."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from PIL import Image

from mmetris.registry import VISUALIZERS
from mmetris.visualization import RefSegLocalVisualizer, draw_referring_picture, make_contact_sheet
from mmetris.visualization.referring_picture import IGNORED_COLOR, PRED_COLOR, TARGET_COLOR, overlay_mask
from mmetris.visualization.text import find_font, wrap_text

SHARED = Path(os.environ.get('MMETRIS_SHARED', Path(__file__).parents[3] / 'shared'))


def disc(height=128, width=128, center=(60, 40), radius=20):
    rows, columns = np.mgrid[:height, :width]
    return ((rows - center[0]) ** 2 + (columns - center[1]) ** 2 < radius**2).astype(np.uint8)


@pytest.fixture
def image():
    return np.full((128, 128, 3), 90, np.uint8)


def make_sample(pred=None, target=None, **meta):
    sample = SegDataSample(metainfo={'img_path': 'images/a.jpg', 'expression': 'the disc', **meta})
    if pred is not None:
        sample.pred_sem_seg = PixelData(data=torch.from_numpy(pred)[None])
    if target is not None:
        sample.gt_sem_seg = PixelData(data=torch.from_numpy(target)[None])
    return sample


def has_color(picture, color):
    return bool((picture == np.array(color)).all(-1).any())


def panels_have(picture, color):
    """Whether a picture has a colour above its captions, which repeat the masks' colours."""
    return has_color(picture[: int(0.85 * len(picture))], color)


def test_the_inside_of_a_mask_is_tinted_and_the_outside_unchanged(image):
    mask = disc()
    tinted = overlay_mask(image, mask, (200, 0, 0), alpha=0.5)
    assert tinted[60, 40].tolist() == [145, 45, 45]
    assert (tinted[100:] == 90).all()
    assert has_color(tinted, (200, 0, 0)), 'a contour in the full colour'
    assert (image == 90).all(), 'the image itself is left alone'


def test_a_hole_in_a_mask_stays_untinted(image):
    tinted = overlay_mask(image, disc(radius=30) - disc(radius=15), (200, 0, 0))
    assert tinted[60, 40].tolist() == [90, 90, 90]
    assert has_color(tinted[40:80, 20:60], (200, 0, 0)), 'the hole has a contour of its own'


def test_three_panels_of_a_small_image_are_enlarged(image):
    picture = draw_referring_picture(image, 'the disc', disc(), disc(), 1.0)
    assert picture.shape[1] >= 3 * 384
    one = draw_referring_picture(image, 'the disc')
    assert 384 <= one.shape[1] < 2 * 384
    large = draw_referring_picture(np.zeros((1200, 2000, 3), np.uint8), 'the disc')
    assert large.shape[1] < 800


def test_prediction_and_ground_truth_have_their_colours_and_ignored_pixels_are_grey():
    image = np.zeros((128, 128, 3), np.uint8)
    nothing = np.zeros((128, 128), np.uint8)
    assert not panels_have(draw_referring_picture(image, 'x'), PRED_COLOR)
    with_pred = draw_referring_picture(image, 'x', pred_mask=disc())
    assert panels_have(with_pred, PRED_COLOR) and not panels_have(with_pred, TARGET_COLOR)
    with_target = draw_referring_picture(image, 'x', target_mask=disc())
    assert panels_have(with_target, TARGET_COLOR) and not panels_have(with_target, PRED_COLOR)
    grey = 0.4 * 50 + 0.6 * np.array(IGNORED_COLOR)
    ignored = draw_referring_picture(image + 50, 'x', target_mask=np.maximum(nothing, 255))
    assert panels_have(ignored, grey.round()) and not panels_have(ignored, TARGET_COLOR)


def test_sentence_score_and_name_are_all_visible(image):
    """Each of them changes the picture in its own part: above, lower left, lower right."""
    plain = draw_referring_picture(image, 'one', disc(), disc(), 0.5, 'a.jpg')
    height, width = plain.shape[:2]

    def changed(other):
        rows, columns = np.nonzero((plain != other).any(-1))
        return rows.min(), rows.max(), columns.min(), columns.max()

    assert changed(draw_referring_picture(image, 'two', disc(), disc(), 0.5, 'a.jpg'))[1] < 0.15 * height
    top, _, _, right = changed(draw_referring_picture(image, 'one', disc(), disc(), 0.25, 'a.jpg'))
    assert top > 0.85 * height and right < 0.3 * width
    top, _, left, _ = changed(draw_referring_picture(image, 'one', disc(), disc(), 0.5, 'b.jpg'))
    assert top > 0.85 * height and left > 0.7 * width


def test_a_long_sentence_makes_the_picture_taller_but_not_wider(image):
    short = draw_referring_picture(image, 'the disc')
    long = draw_referring_picture(image, 'the disc ' * 20)
    endless = draw_referring_picture(image, 'the disc ' * 2000)
    assert short.shape[1] == long.shape[1] == endless.shape[1]
    assert short.shape[0] < long.shape[0] < endless.shape[0] < 3 * short.shape[0]


@pytest.mark.parametrize('sentence', ['größer als ñandú', 'красный круг', '红色的圆', 'ο κύκλος', '🙂', ''])
def test_sentences_in_any_script_are_drawn(image, sentence):
    assert draw_referring_picture(image, sentence, disc(), disc(), 0.5, f'{sentence}.jpg').dtype == np.uint8


@pytest.mark.parametrize('shape', [(20, 600), (600, 20), (1, 1), (3000, 4000)])
def test_images_of_any_shape_are_drawn(shape):
    mask = np.ones(shape, np.uint8)
    picture = draw_referring_picture(np.zeros((*shape, 3), np.uint8), 'a sentence', mask, mask, 1.0, 'name.jpg')
    assert max(picture.shape) < 2200


def test_masks_of_another_size_are_refused(image):
    with pytest.raises(ValueError, match=r'pred_mask has size \(64, 64\)'):
        draw_referring_picture(image, 'x', disc(64, 64))
    with pytest.raises(ValueError, match='images/a.jpg.*target_mask has size'):
        RefSegLocalVisualizer().draw_datasample(image, make_sample(disc(), disc(64, 64)), draw_pred=False)


def test_lines_are_broken_between_words_and_fit():
    font = find_font('abc', 20)
    text = 'the small red circle left of the blue square'
    lines = wrap_text(text, font, 150)
    assert ' '.join(lines) == text and len(lines) > 1
    assert all(font.getlength(line) <= 150 for line in lines)
    assert wrap_text('', font, 150) == ['']


def test_words_wider_than_a_line_are_broken_between_letters():
    font = find_font('a', 20)
    lines = wrap_text('so ' + 60 * 'a', font, 150, max_lines=99)
    assert lines[0] == 'so' and ''.join(lines[1:]) == 60 * 'a'
    assert all(font.getlength(line) <= 150 for line in lines)


def test_more_lines_than_allowed_end_in_an_ellipsis():
    font = find_font('a', 20)
    lines = wrap_text('word ' * 100, font, 150, max_lines=2)
    assert len(lines) == 2 and lines[1].endswith('…') and font.getlength(lines[1]) <= 150
    with pytest.raises(ValueError, match='fits'):
        wrap_text('word', font, 3)


def test_the_visualizer_writes_a_file_with_the_score_of_the_masks(image, tmp_path):
    visualizer = VISUALIZERS.build(dict(type='RefSegLocalVisualizer', name='test_pictures'))
    pred, target = disc(), disc(center=(60, 48))
    target[:4] = 255
    visualizer.add_datasample('name', image, make_sample(pred, target), out_file=str(tmp_path / 'new' / 'a.png'))
    overlap = (pred & (target == 1)).sum() / (pred | (target == 1)).sum()
    expected = draw_referring_picture(image, 'the disc', pred, target, overlap, 'a.jpg')
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / 'new' / 'a.png')), expected)


def test_the_visualizer_draws_what_is_asked_for_and_there(image, tmp_path):
    visualizer = RefSegLocalVisualizer(save_dir=str(tmp_path), vis_backends=[dict(type='LocalVisBackend')])
    both = make_sample(disc(), disc())
    widths = [
        visualizer.draw_datasample(image, sample, draw_gt, draw_pred).shape[1]
        for sample, draw_gt, draw_pred in [
            (make_sample(), True, True),
            (both, False, True),
            (make_sample(target=disc()), True, True),
            (both, True, True),
        ]
    ]
    assert widths[0] < widths[1] == widths[2] < widths[3]
    visualizer.add_datasample('name', image, both, step=3)
    assert [path.name for path in tmp_path.glob('vis_data/vis_image/*')] == ['name_3.png']


def test_a_sample_without_expression_is_drawn_as_mmsegmentation_draws_it(image, tmp_path):
    visualizer = RefSegLocalVisualizer(alpha=1.0)
    # As MMEngine's loops do; MMSegmentation's constructor mixes its `classes` and `palette` up.
    visualizer.dataset_meta = dict(classes=('background', 'disc'), palette=[[0, 0, 0], [9, 8, 7]])
    sample = make_sample(disc(), expression=None)
    visualizer.add_datasample('name', image, sample, with_labels=False, out_file=str(tmp_path / 'a.png'))
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / 'a.png')), disc()[..., None] * np.array([9, 8, 7]))


def test_a_sheet_has_every_picture_in_its_cell(tmp_path):
    colors = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    images = [np.full((30, 40, 3), color, np.uint8) for color in colors]
    Image.fromarray(images[2]).save(tmp_path / 'c.png')
    out_file = tmp_path / 'new' / 's.png'
    sheet = make_contact_sheet([*images[:2], tmp_path / 'c.png'], columns=2, out_file=out_file, gap=10)
    assert sheet.shape == (10 + 2 * 40, 10 + 2 * 50, 3)
    assert [tuple(sheet[row, column]) for row, column in ((25, 30), (25, 80), (65, 30))] == colors
    assert tuple(sheet[65, 80]) == (255, 255, 255)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / 'new' / 's.png')), sheet)


def test_a_sheet_reduces_wide_pictures_and_needs_one():
    sheet = make_contact_sheet([np.zeros((100, 400, 3), np.uint8)], columns=3, cell_width=200, gap=0)
    assert sheet.shape == (50, 200, 3)
    with pytest.raises(ValueError, match='0 pictures'):
        make_contact_sheet([])


@pytest.mark.skipif(not (SHARED / 'photos').is_dir(), reason='the photographs beside the repository are missing')
def test_real_photographs_with_their_sentences_are_drawn():
    with open(SHARED / 'photos' / 'refcoco' / 'refs(unc).p', 'rb') as file:
        sentence = pickle.load(file)[0]['sentences'][0]['sent']
    for path in sorted((SHARED / 'photos' / 'train2014').glob('*.jpg')):
        photo = np.array(Image.open(path).convert('RGB'))
        mask = disc(*photo.shape[:2], center=(photo.shape[0] // 2, photo.shape[1] // 2), radius=80)
        picture = draw_referring_picture(photo, sentence, mask, mask, 1.0, path.name)
        assert panels_have(picture, PRED_COLOR) and panels_have(picture, TARGET_COLOR)


def test_the_no_target_score_stands_below_where_a_model_decides_it(image):
    """With its verdict: the last line differs by it, the panels do not."""
    empty, sample = np.zeros((128, 128), np.uint8), make_sample(np.zeros((128, 128), np.uint8))
    plain = draw_referring_picture(image, 'the disc', empty)
    told = {
        score: draw_referring_picture(image, 'the disc', empty, no_target_score=score, no_target_threshold=0.5)
        for score in (0.4, 0.5)
    }
    end = len(plain) - 60
    for picture in told.values():
        assert picture.shape == plain.shape and np.array_equal(picture[:end], plain[:end])
        assert not np.array_equal(picture, plain)
    assert not np.array_equal(told[0.4], told[0.5])
    sample.no_target_score = 0.5
    sample.set_metainfo(dict(no_target_threshold=0.5))
    drawn = RefSegLocalVisualizer().draw_datasample(image, sample)
    note = draw_referring_picture(image, 'the disc', empty, note='a.jpg', no_target_score=0.5, no_target_threshold=0.5)
    assert np.array_equal(drawn, note)


def boxes_of(*corners):
    return InstanceData(bboxes=torch.tensor(corners, dtype=torch.float32).reshape(-1, 4))


def edges_of(picture, color):
    """Left, top, right, bottom of a colour above the captions."""
    rows, columns = np.nonzero((picture[: int(0.85 * len(picture))] == np.array(color)).all(-1))
    return np.array([columns.min(), rows.min(), columns.max(), rows.max()])


def test_boxes_are_drawn_where_model_and_data_have_them(image, tmp_path):
    sample = make_sample()
    sample.pred_instances = boxes_of((10, 20, 40, 60), (70, 70, 120, 100))
    sample.pred_instances.scores = torch.tensor([0.4, 0.7])
    sample.gt_instances = boxes_of((64, 64, 128, 96))
    visualizer = RefSegLocalVisualizer(vis_backends=None, save_dir=str(tmp_path))
    picture = visualizer.draw_datasample(image, sample)
    # The best one of those predicted; the panels of 384 pixels show three for each pixel of the image.
    predicted, true = edges_of(picture, PRED_COLOR), edges_of(picture, TARGET_COLOR)
    assert abs((predicted[2:] - predicted[:2]) - 3 * np.array([50, 30])).max() <= 8
    assert abs((true[2:] - true[:2]) - 3 * np.array([64, 32])).max() <= 8
    assert abs(true[1] - predicted[1] - 3 * (64 - 70)) <= 4
    visualizer.box_threshold = 0.3
    both = edges_of(visualizer.draw_datasample(image, sample), PRED_COLOR)
    assert abs((both[2:] - both[:2]) - 3 * np.array([110, 80])).max() <= 8
    assert not panels_have(visualizer.draw_datasample(image, sample, draw_pred=False), PRED_COLOR)
    sample.pred_instances = sample.pred_instances[:0]
    assert not panels_have(visualizer.draw_datasample(image, sample), PRED_COLOR)
