"""Mean IoU of classes that training did not see."""

import pytest
import torch
from mmengine.logging import MMLogger

from mmetris.evaluation import HeldOutIoUMetric


def metric(held_out, classes=('background', 'cat', 'dog', 'sky')):
    MMLogger.get_instance('test_held_out')
    metric = HeldOutIoUMetric(held_out=held_out)
    metric.dataset_meta = dict(classes=classes)
    return metric


def sample(predicted, labels):
    return dict(pred_sem_seg=dict(data=torch.tensor([predicted])), gt_sem_seg=dict(data=torch.tensor([labels])))


def test_by_hand():
    """background 2/3, cat 0/1, dog 2/3, sky in neither; the last pixel is ignored."""
    scores = metric(['dog'])
    scores.process({}, [sample([[0, 0, 0, 2, 2, 2]], [[0, 0, 1, 2, 2, 255]])])
    scores.process({}, [sample([[2]], [[0]])])
    found = scores.evaluate(2)
    assert found['mIoU/held-out'] == pytest.approx(200 / 3, abs=0.01)
    assert found['mIoU/seen'] == pytest.approx((50 + 0) / 2, abs=0.01)


def test_a_name_that_is_no_class_is_refused():
    scores = metric(['dgo'])
    scores.process({}, [sample([[0]], [[0]])])
    with pytest.raises(ValueError, match="'dgo'.* no classes of the data set"):
        scores.evaluate(1)
