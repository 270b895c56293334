"""RefDataSample carries sentence, tokens and masks."""

import copy
import pickle

import pytest
import torch
from mmengine.structures import PixelData

from mmetris.structures import RefDataSample


def sample() -> RefDataSample:
    result = RefDataSample(metainfo=dict(expression='the left dog', letterbox=(0.5, 0.0, 8.0)))
    result.tokens = torch.tensor([49406, 49407, 0])
    result.gt_sem_seg = PixelData(data=torch.tensor([[[0, 1], [255, 1]]]))
    result.pred_sem_seg = PixelData(data=torch.tensor([[[1, 1], [0, 0]]], dtype=torch.uint8))
    return result


def test_the_masks_are_boolean_and_ignored_pixels_are_not_on_the_object():
    assert sample().gt_mask.tolist() == [[False, True], [False, True]]
    assert sample().pred_mask.tolist() == [[True, True], [False, False]]
    assert sample().gt_mask.dtype == torch.bool


def test_expression_is_meta_information_and_tokens_are_data():
    result = sample()
    assert result.expression == 'the left dog' and 'expression' in result.metainfo
    assert 'tokens' in result.keys() and 'tokens' not in result.metainfo
    assert result.to(torch.float64).tokens.dtype == torch.float64  # moves with the sample's tensors


def test_it_survives_copying_and_worker_processes():
    for result in (copy.deepcopy(sample()), pickle.loads(pickle.dumps(sample())), sample().new()):
        assert type(result) is RefDataSample and result.metainfo == sample().metainfo
        assert torch.equal(result.tokens, sample().tokens) and torch.equal(result.gt_mask, sample().gt_mask)


def test_what_is_absent_raises():
    empty = RefDataSample()
    for name in ('gt_mask', 'pred_mask', 'tokens', 'expression'):
        with pytest.raises(AttributeError):
            getattr(empty, name)


def test_a_prediction_has_one_type_only():
    with pytest.raises(AssertionError):
        RefDataSample().gt_sem_seg = torch.zeros(1, 2, 2)
