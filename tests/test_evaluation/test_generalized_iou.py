"""gIoU, cIoU, N-acc, T-acc and Pr of sentences that mean nothing, one object or several."""

import csv

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmetris.evaluation import GRefSegMetric, RefSegMetric
from mmetris.registry import METRICS
from mmetris.structures import RefDataSample
from tests.toy import build_model


def sample(index, pred, target, **kwargs):
    """One sentence; masks as lists of rows."""
    pred, target = torch.tensor(pred), torch.tensor(target)
    return dict(
        sample_idx=index,
        sent_id=index,
        img_path='a.jpg',
        pred_sem_seg=dict(data=pred[None]),
        gt_sem_seg=dict(data=target[None]),
        **kwargs,
    )


def scores(samples, metric=None, **kwargs):
    metric = metric or GRefSegMetric(**kwargs)
    metric.process(None, samples)
    return metric.evaluate(len(samples))


NONE, ONE, TWO, ALL = [[0, 0, 0, 0]], [[1, 0, 0, 0]], [[1, 1, 0, 0]], [[1, 1, 1, 1]]


def test_each_case_by_hand():
    """Nothing answered with nothing: IoU 1, adds nothing. Nothing answered with a mask: IoU 0, its pixels to U. A
    target missed: IoU 0, its pixels to U. Else I / U."""
    samples = [
        sample(0, NONE, NONE),  # 1      I 0 U 0
        sample(1, TWO, NONE),  # 0       I 0 U 2
        sample(2, NONE, ALL),  # 0       I 0 U 4
        sample(3, TWO, ONE),  # 1/2      I 1 U 2
        sample(4, ALL, ALL),  # 1        I 4 U 4
    ]
    found = scores(samples)
    assert found == {
        'gIoU': pytest.approx(100 * 2.5 / 5),
        'cIoU': pytest.approx(100 * 5 / 12),
        'N-acc': pytest.approx(50),
        'T-acc': pytest.approx(100 * 2 / 3),
        'Pr@0.7': pytest.approx(100 / 3),
        'Pr@0.8': pytest.approx(100 / 3),
        'Pr@0.9': pytest.approx(100 / 3),
        'samples': 5,
    }


def test_precision_counts_a_sample_right_at_the_threshold():
    seven = [[1] * 7 + [0] * 3]
    assert scores([sample(0, seven, [[1] * 10])])['Pr@0.7'] == 100


def test_an_answer_not_in_the_picture_counts_as_an_empty_mask():
    samples = [
        sample(0, TWO, NONE, pred_no_target=True),
        sample(1, ALL, ALL, pred_no_target=False),
        sample(2, ALL, ALL, pred_no_target=torch.tensor(True)),
    ]
    before = samples[0]['pred_sem_seg']['data'].clone()
    found = scores(samples)
    assert (found['N-acc'], found['T-acc']) == (100, 50)
    assert found['gIoU'] == pytest.approx(100 * 2 / 3) and found['cIoU'] == 50
    assert torch.equal(samples[0]['pred_sem_seg']['data'], before)


def test_scores_of_a_kind_that_is_not_there_are_left_out():
    assert 'N-acc' not in scores([sample(0, ALL, ALL)])
    only_none = scores([sample(0, NONE, NONE)])
    assert only_none['N-acc'] == 100 and not {'T-acc', 'Pr@0.7'} & set(only_none)


def brute_force(samples):
    """The same by loops over pixels."""
    ious, total_i, total_u, hits = [], 0, 0, dict(tp=0, fn=0, tn=0, fp=0)
    reached = dict.fromkeys((0.7, 0.8, 0.9), 0)
    for one in samples:
        pred, target = (one[key]['data'][0].numpy().ravel() for key in ('pred_sem_seg', 'gt_sem_seg'))
        i = sum(1 for p, t in zip(pred, target) if p and t == 1)
        u = sum(1 for p, t in zip(pred, target) if t != 255 and (p or t == 1))
        has_target = any(t == 1 for t in target)
        predicted = any(p for p, t in zip(pred, target) if t != 255)
        if not has_target and not predicted:
            ious.append(1.0)
            hits['tp'] += 1
            continue
        total_i, total_u = total_i + i, total_u + u
        iou = i / u if has_target and predicted else 0.0
        ious.append(iou)
        hits['fn' if not has_target else 'tn' if predicted else 'fp'] += 1
        for threshold in reached:
            reached[threshold] += has_target and iou >= threshold
    targets = hits['tn'] + hits['fp']
    found = dict(gIoU=np.mean(ious), cIoU=total_i / max(total_u, 1))
    if hits['tp'] + hits['fn']:
        found['N-acc'] = hits['tp'] / (hits['tp'] + hits['fn'])
    if targets:
        found['T-acc'] = hits['tn'] / targets
        found.update({f'Pr@{threshold}': count / targets for threshold, count in reached.items()})
    return {name: 100 * value for name, value in found.items()}


masks = st.lists(st.sampled_from([0, 0, 0, 1]), min_size=6, max_size=6).map(lambda row: [row])
truths = st.one_of(
    st.just([[0] * 6]), st.lists(st.sampled_from([0, 0, 1, 1, 255]), min_size=6, max_size=6).map(lambda row: [row])
)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(masks, truths), min_size=1, max_size=8))
def test_any_masks_score_as_loops_over_pixels_do(pairs):
    samples = [sample(index, *pair) for index, pair in enumerate(pairs)]
    found = scores(samples)
    assert found.pop('samples') == len(samples)
    assert found == {name: pytest.approx(value) for name, value in brute_force(samples).items()}


def test_copies_count_once_and_names_are_checked():
    samples = [sample(0, ALL, ALL), sample(1, NONE, ALL)]
    metric = METRICS.build(dict(type='GRefSegMetric', metric=['gIoU']))
    metric.process(None, [*samples, samples[0]])
    assert metric.evaluate(2) == dict(gIoU=50, samples=2)
    with pytest.raises(ValueError, match="GRefSegMetric has no metric 'mIoU'; valid names are gIoU, cIoU, N-acc"):
        GRefSegMetric(metric='mIoU')


@pytest.mark.parametrize('policy, mean, number', [('zero', 100 / 3, 3), ('one', 200 / 3, 3), ('ignore', 50, 2)])
def test_refsegmetric_has_a_policy_for_empty_truths(policy, mean, number):
    samples = [sample(0, NONE, NONE), sample(1, ALL, ALL), sample(2, NONE, ONE)]
    found = scores(samples, RefSegMetric(metric='mIoU', empty_target=policy))
    assert found == dict(mIoU=pytest.approx(mean), samples=number)


def test_refsegmetric_refuses_an_unknown_policy_and_nothing_but_empty_truths():
    with pytest.raises(ValueError, match='`empty_target` must be one of zero, one, ignore'):
        RefSegMetric(empty_target='skip')
    with pytest.raises(ValueError, match='no sample has a target'):
        scores([sample(0, NONE, NONE)], RefSegMetric(empty_target='ignore'))


@torch.no_grad()
def test_the_heads_answers_are_counted_as_relas(tmp_path):
    """Of four sentences, two of which mean nothing, the head takes the two of the highest scores for those: N-acc and
    T-acc are the shares of right ones among its answers, and the table has its scores."""
    model = build_model(decode_head=dict(no_target_head=dict(channels=8))).eval()
    model.decode_head.threshold = 0.01  # A mask, where the head leaves one, has pixels.
    texts = ['the left dog', 'a cat', 'x', 'one']
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    logits, no_target = model.forward_answers(images, model.tokenize(texts))
    threshold = no_target.sort().values[2].item()
    model.test_cfg = dict(no_target=dict(threshold=threshold))
    samples = model.postprocess_result(logits, [RefDataSample() for _ in texts], (64, 64), no_target)
    truths = [torch.ones(1, 64, 64), torch.zeros(1, 64, 64)] * 2
    dicts = []
    for index, (data_sample, truth) in enumerate(zip(samples, truths)):
        meta = dict(sample_idx=index, sent_id=index, img_path='a.jpg', expression=texts[index])
        dicts.append(dict(data_sample.to_dict(), gt_sem_seg=dict(data=truth.long()), **meta))
    answered = [score >= threshold for score in no_target.tolist()]
    assert sum(answered) == 2
    found = scores(dicts, output_dir=str(tmp_path))
    assert found['N-acc'] == 100 * sum(answered[1::2]) / 2
    assert found['T-acc'] == 100 * sum(not one for one in answered[0::2]) / 2
    with open(tmp_path / 'sentences.csv', encoding='utf-8') as file:
        table = list(csv.DictReader(file))
    assert [float(row['no_target_score']) for row in table] == pytest.approx(no_target.tolist(), abs=1e-6)
