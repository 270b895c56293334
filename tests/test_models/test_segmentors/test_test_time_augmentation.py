"""RefSegTTAModel: the mean no-target score of the augmented pictures decides, not the last one's."""

import pytest
import torch
from mmengine.structures import PixelData

from mmetris.models.segmentors import RefSegTTAModel
from mmetris.structures import RefDataSample
from tests.toy import build_model


def augmented(*scores, threshold=0.5):
    """A picture's samples, with masks that are there where no score empties them."""
    samples = []
    for score in scores:
        sample = RefDataSample(metainfo=dict(img_path='a.jpg', no_target_threshold=threshold))
        sample.seg_logits = PixelData(data=torch.full((1, 2, 3), 4.0))
        sample.pred_sem_seg = PixelData(data=torch.ones(1, 2, 3, dtype=torch.uint8))
        if score is not None:
            sample.no_target_score, sample.pred_no_target = score, score >= threshold
        samples.append(sample)
    return samples


@pytest.fixture(scope='module')
def tta():
    return RefSegTTAModel(build_model())


def test_the_mean_score_decides(tta):
    absent, present = tta.merge_preds([augmented(0.9, 0.8, 0.1), augmented(0.1, 0.2, 0.9)])
    assert absent.no_target_score == pytest.approx(0.6) and absent.pred_no_target and not absent.pred_mask.any()
    assert present.no_target_score == pytest.approx(0.4) and not present.pred_no_target and present.pred_mask.all()


def test_without_scores_it_is_mmsegs(tta):
    (sample,) = tta.merge_preds([augmented(None, None)])
    assert sample.pred_mask.all() and 'pred_no_target' not in sample
