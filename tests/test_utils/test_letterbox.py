"""Letterbox geometry, both ways, against recorded values of the released code and by its own laws."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmetris.utils.letterbox import (
    CLIP_MEAN_BGR,
    LetterboxGeometry,
    letterbox_geometry,
    letterbox_image,
    letterbox_mask,
    undo_letterbox,
)

sizes = st.tuples(st.integers(1, 200), st.integers(1, 200))


class TestRecordedValues:
    """Tolerances: images 1 grey level; masks and predictions 99.9 % of pixels; intersection and union 0.1 %."""

    @pytest.fixture(scope='class')
    def recorded(self):
        with np.load(Path(__file__).parents[1] / 'data' / 'golden' / 'letterbox.npz') as file:
            return dict(file)

    @pytest.fixture(params=range(5))
    def case(self, request, recorded):
        prefix = f'{request.param}_'
        return {key[len(prefix) :]: value for key, value in recorded.items() if key.startswith(prefix)}

    def test_images_agree(self, case):
        ours = letterbox_image(np.ascontiguousarray(case['image_rgb'][..., ::-1]), (64, 64))[..., ::-1]
        assert np.abs(ours.astype(int) - case['letterboxed_rgb']).max() <= 1

    def test_masks_agree(self, case):
        ours = letterbox_mask((case['mask'] > 0).astype(np.uint8), (64, 64))
        assert set(np.unique(ours)) <= {0, 1}
        assert np.mean(ours == (case['letterboxed_mask'] >= 128)) >= 0.999

    def test_predictions_agree_at_original_size(self, case):
        mask = case['mask'] > 0
        prob = torch.from_numpy(case['prob_quarter'])[None, None]
        restored = undo_letterbox(prob, letterbox_geometry(mask.shape, (64, 64)), (64, 64), mask.shape)
        assert restored.shape == (1, 1, *mask.shape)
        pred = (restored[0, 0] > 0.35).numpy()
        assert np.mean(pred == (case['pred'] > 0)) >= 0.999
        inter_union = [np.sum(pred & mask), np.sum(pred | mask)]
        np.testing.assert_allclose(inter_union, case['inter_union'], rtol=1e-3)


def test_geometry_of_a_wide_image_by_hand():
    # 640 x 480 into 416 x 416: scaled by 0.65 to 416 x 312, and 104 rows are left over.
    assert letterbox_geometry((480, 640), (416, 416)) == pytest.approx(LetterboxGeometry(0.65, 0, 52))


@given(sizes, sizes)
def test_the_image_fits_touches_two_borders_and_is_centred(ori_hw, input_hw):
    scale, left, top = letterbox_geometry(ori_hw, input_hw)
    height, width = ori_hw[0] * scale, ori_hw[1] * scale
    assert min(left, top) == pytest.approx(0, abs=1e-9)
    assert 2 * left + width == pytest.approx(input_hw[1]) and 2 * top + height == pytest.approx(input_hw[0])


@given(sizes, sizes)
def test_a_turned_image_has_the_turned_geometry(ori_hw, input_hw):
    scale, left, top = letterbox_geometry(ori_hw, input_hw)
    assert letterbox_geometry(ori_hw[::-1], input_hw[::-1]) == LetterboxGeometry(scale, top, left)


@settings(deadline=None, max_examples=50)
@given(sizes, st.sampled_from([np.uint8, np.int64, bool]))
def test_an_image_of_the_input_size_is_left_as_it_is(ori_hw, dtype):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*ori_hw, 3)).astype(np.uint8)
    mask = rng.integers(0, 2, ori_hw).astype(dtype)
    np.testing.assert_array_equal(letterbox_image(image, ori_hw), image)
    result = letterbox_mask(mask, ori_hw)
    np.testing.assert_array_equal(result, mask)
    assert result.dtype == mask.dtype


@settings(deadline=None, max_examples=30)
@given(st.tuples(st.integers(2, 40), st.integers(2, 40)), st.tuples(st.integers(2, 40), st.integers(2, 40)))
def test_masks_hold_only_values_of_the_input_and_the_border(ori_hw, input_hw):
    labels = np.random.default_rng(0).choice(np.array([0, 1, 255], np.uint8), ori_hw)
    assert set(np.unique(letterbox_mask(labels, input_hw))) <= {0, 1, 255}
    several = np.where(labels == 1, 7, labels)
    assert set(np.unique(letterbox_mask(several, input_hw, border_value=9, interpolation='nearest'))) <= {0, 7, 9, 255}


def test_the_border_has_the_colour_and_label_asked_for():
    image, mask = np.full((10, 20, 3), 7, np.uint8), np.ones((10, 20), np.uint8)
    assert letterbox_image(image, (20, 20))[0, 0].tolist() == [round(value) for value in CLIP_MEAN_BGR]
    assert letterbox_mask(mask, (20, 20))[[0, 10, 19], 5].tolist() == [0, 1, 0]
    assert letterbox_mask(mask, (20, 20), border_value=255)[[0, 10, 19], 5].tolist() == [255, 1, 255]
    assert letterbox_mask(mask, (20, 20), border_value=1).min() == 1


def test_ignored_pixels_do_not_grow_the_mask():
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :4] = 255
    result = letterbox_mask(mask, (16, 16))
    assert set(np.unique(result)) == {0, 255}
    # Half of it, less one column and one row at the borders, where centres of pixels fall between two.
    assert np.mean(result == 255) == pytest.approx(0.5, abs=0.1)


@settings(deadline=None, max_examples=30)
@given(st.tuples(st.integers(20, 90), st.integers(20, 90)), st.tuples(st.integers(32, 96), st.integers(32, 96)))
def test_a_mask_comes_back_where_it_was(ori_hw, input_hw):
    mask = np.zeros(ori_hw, np.uint8)
    mask[ori_hw[0] // 4 : -(ori_hw[0] // 4), ori_hw[1] // 4 : -(ori_hw[1] // 4)] = 1
    boxed = torch.from_numpy(letterbox_mask(mask, input_hw)).float()[None, None]
    geometry = letterbox_geometry(ori_hw, input_hw)
    restored = undo_letterbox(boxed, geometry, input_hw, ori_hw)[0, 0].numpy() > 0.5
    # Off by at most about one pixel of the coarser grid along the outline.
    outline = 2 * (ori_hw[0] + ori_hw[1])
    assert np.sum(restored != mask) <= outline * max(1, 1 / geometry.scale)


def test_undoing_works_on_batches_and_keeps_the_gradient_and_the_type():
    prob = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    geometry = letterbox_geometry((20, 30), (32, 32))
    restored = undo_letterbox(prob, geometry, (32, 32), (20, 30))
    assert restored.shape == (3, 1, 20, 30) and restored.dtype == torch.float64
    for row in range(3):
        torch.testing.assert_close(
            restored[row : row + 1], undo_letterbox(prob[row : row + 1], geometry, (32, 32), (20, 30))
        )
    restored.sum().backward()
    assert prob.grad.abs().sum() > 0


def test_the_border_of_a_prediction_does_not_reach_the_original():
    # Certain inside the image, zero in the border: rows well inside stay certain.
    prob = torch.zeros(1, 1, 32, 32)
    prob[:, :, 8:24] = 1  # a 16 x 32 image in the middle of 32 x 32
    restored = undo_letterbox(prob, letterbox_geometry((16, 32), (32, 32)), (32, 32), (16, 32))
    torch.testing.assert_close(restored[0, 0, 2:-2, 2:-2], torch.ones(12, 28))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match='positive'):
        letterbox_geometry((0, 5), (8, 8))
    with pytest.raises(ValueError, match="'linear' or 'nearest'"):
        letterbox_mask(np.zeros((4, 4), np.uint8), (8, 8), interpolation='cubic')
    with pytest.raises(ValueError, match=r'\[0, 2\].*nearest'):
        letterbox_mask(np.array([[0, 2]], np.uint8), (8, 8))
    for out_of_range in (np.array([[0, 256]]), np.array([[0, -1]]), np.array([[0, 0.5]])):
        with pytest.raises(ValueError, match='from 0 to 255'):
            letterbox_mask(out_of_range, (8, 8))
