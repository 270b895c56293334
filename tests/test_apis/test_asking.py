"""The answer "not in the picture" of inferencer, predictor, files and shell; by a head, by a rule and by none."""

import json
import math

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmetris.apis import RefSegInferencer, RefSegPredictor
from mmetris.apis.asking import read_answer, set_no_target
from mmetris.cli import NO_TARGET_BY
from mmetris.models.decode_heads.no_target import MASK_RULES
from tests.toy_command import ask_command
from tests.toy_inference import picture, save_toy_model

TEXTS = ['the left dog', 'a cat']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Folders ``plain`` and ``headed`` of a toy model, and a picture."""
    folder = tmp_path_factory.mktemp('asking')
    save_toy_model(folder / 'plain')
    save_toy_model(folder / 'headed', decode_head=dict(no_target_head=dict(type='NoTargetHead', channels=8)))
    Image.fromarray(picture()).save(folder / 'picture.png')
    return folder


def ask(folder, model='headed', texts=TEXTS, no_target=None, **kwargs):
    inferencer = RefSegInferencer(folder / model, device='cpu', show_progress=False, no_target=no_target)
    return inferencer(folder / 'picture.png', texts, **kwargs)


@pytest.fixture(scope='module')
def scores(folder):
    """No-target scores of the two sentences."""
    scores = ask(folder)['no_target_scores']
    assert 0 < scores[0] != scores[1] < 1
    return scores


def test_a_model_without_it_answers_as_before(folder):
    result = ask(folder, 'plain', return_datasamples=True)
    names = ('images', 'image_index', 'texts', 'masks', 'boxes', 'scores', 'is_empty', 'probabilities', 'data_samples')
    assert set(result) == set(names) and not any(result['is_empty'])
    assert 'no_target_score' not in result['data_samples'][0]
    for other in (ask(folder, no_target=False), ask(folder, no_target=0.9999)):
        assert all(np.array_equal(*masks) for masks in zip(result['masks'], other['masks']))
        assert result['scores'] == other['scores']


def test_the_threshold_decides_which_sentence_has_a_mask(folder, scores):
    """At a sentence's own score its mask is empty, just above it is not."""
    lower, higher = sorted(range(2), key=lambda index: scores[index])
    result = ask(folder, no_target=scores[higher])
    assert result['no_target_scores'] == scores
    assert result['no_target'] == result['is_empty'] == [index == higher for index in range(2)]
    assert (result['scores'][higher], result['boxes'][higher].tolist()) == (0, [0] * 4)
    assert result['probabilities'][higher].max() > 0.35 and result['masks'][lower].any()
    assert not any(ask(folder, no_target=math.nextafter(scores[higher], 1))['no_target'])


def test_another_mask_threshold_does_not_bring_an_absent_object_back(folder, scores):
    result = ask(folder, no_target=min(scores), threshold=0.2, return_datasamples=True)
    assert result['no_target'] == [True, True] and not np.any(result['masks'])
    assert not any(sample.pred_mask.any() for sample in result['data_samples'])
    answer = read_answer(result['probabilities'][0], 0.2, scores[0], no_target=True)
    assert answer.is_empty and answer.no_target and answer.no_target_score == scores[0]
    assert read_answer(result['probabilities'][0], 0.2).mask.any()


def test_a_predictor_says_the_same_and_shares_the_rule_of_an_inferencer(folder, scores):
    predictor = RefSegPredictor(folder / 'headed', device='cpu', no_target=max(scores))
    assert predictor.no_target_rule == ('head', max(scores))
    predictor.set_image(folder / 'picture.png')
    found = predictor.predict(TEXTS, return_datasamples=True)
    assert found['no_target_scores'] == pytest.approx(scores, abs=1e-6)
    assert found['no_target_scores'] == [sample.no_target_score for sample in found['data_samples']]
    assert all(sample.no_target_threshold == max(scores) for sample in found['data_samples'])
    inferencer = RefSegInferencer(folder / 'plain', device='cpu', no_target=dict(by='top', threshold=0.4))
    shared = RefSegPredictor(inferencer)
    assert shared.no_target_rule == inferencer.no_target_rule == ('top', 0.4)
    with pytest.raises(ValueError, match='no_target=0.5: the model is shared'):
        RefSegPredictor(inferencer, no_target=0.5)
    plain = RefSegPredictor(folder / 'plain', device='cpu')
    plain.set_image(folder / 'picture.png')
    assert 'no_target' not in plain.predict(TEXTS)


@pytest.mark.parametrize('by', MASK_RULES)
def test_a_rule_on_the_mask_decides_where_no_head_does(folder, by):
    found = ask(folder, 'plain', no_target=dict(by=by, threshold=0.9999))
    score = found['no_target_scores'][0]
    assert not found['no_target'][0] and 0 < score < 1
    again = ask(folder, 'plain', no_target=dict(by=by, threshold=score))
    assert again['no_target'][0] and not again['masks'][0].any()


def test_a_class_that_is_not_in_the_picture_gets_no_pixel(folder, scores):
    options = dict(device='cpu', show_progress=False)
    every = RefSegInferencer(folder / 'headed', **options, no_target=False)
    labels = every.label_maps(folder / 'picture.png', TEXTS)['label_maps'][0]
    assert 0 in labels and scores[0] == max(scores)
    fewer = RefSegInferencer(folder / 'headed', **options, no_target=max(scores))
    labels = fewer.label_maps(folder / 'picture.png', TEXTS)['label_maps'][0]
    assert 0 not in labels and 1 in labels


def test_bad_rules_are_named_before_anything_is_computed(folder):
    for wrong, message in ((0.5, 'this model has not'), (dict(by='top'), 'needs a threshold'), (True, 'True must be')):
        with pytest.raises(ValueError, match=message):
            ask(folder, 'plain', no_target=wrong)
    with pytest.raises(ValueError, match='no_target.threshold must be a number between 0 and 1, but is 1.5'):
        ask(folder, no_target=1.5)


def test_a_number_is_the_threshold_of_the_rule_that_is_there():
    cfg = Config(dict(model=dict(test_cfg=dict(mode='whole', no_target=dict(by='area', threshold=0.9)))))
    set_no_target(cfg, None)
    assert cfg.model.test_cfg.no_target.threshold == 0.9
    set_no_target(cfg, 0.7)
    assert cfg.model.test_cfg == dict(mode='whole', no_target=dict(by='area', threshold=0.7))
    set_no_target(cfg, False)
    assert cfg.model.test_cfg.no_target is False


def test_the_json_has_scores_decisions_and_the_threshold(folder, scores, tmp_path):
    ask(folder, no_target=max(scores), out_dir=tmp_path / 'headed')
    content = json.loads((tmp_path / 'headed' / 'predictions.json').read_text())
    assert content['info']['no_target'] == dict(by='head', threshold=max(scores))
    for annotation, score in zip(content['annotations'], scores, strict=True):
        assert annotation['no_target_score'] == score
        assert annotation['no_target'] == (score == max(scores)) == (annotation['area'] == 0)
    ask(folder, 'plain', out_dir=tmp_path / 'plain')
    content = json.loads((tmp_path / 'plain' / 'predictions.json').read_text())
    assert 'no_target' not in content['info'] and 'no_target_score' not in content['annotations'][0]


def shell(capsys, *arguments):
    return ask_command(capsys, *arguments, '--device', 'cpu')


def test_the_shell_says_not_in_the_picture(folder, scores, tmp_path, capsys):
    common = 'segment', folder / 'picture.png', *TEXTS, '--model', folder / 'headed'
    options = '--no-target-threshold', max(scores), '--out-dir', tmp_path / 'out', '--out-file', tmp_path / 'x.png'
    status, out, _ = shell(capsys, *common, *options)
    lines = dict(zip(TEXTS, out.splitlines()))
    absent, present = (TEXTS[scores.index(pick(scores))] for pick in (max, min))
    told = f'no-target score {max(scores):.2f} (head, threshold {max(scores):g})'
    assert status == 0 and lines[absent].endswith(f'  not in the picture, {told}')
    assert f'no-target score {min(scores):.2f}' in lines[present] and 'score 0.' in lines[present]
    content = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
    assert content['info']['no_target'] == dict(by='head', threshold=max(scores))
    status, out, _ = shell(capsys, *common[:-1], folder / 'plain')
    assert status == 0 and 'no-target' not in out
    rule = '--no-target-by', 'area', '--no-target-threshold', 0.01
    status, out, _ = shell(capsys, *common[:-1], folder / 'plain', *rule)
    assert status == 0 and out.count('not in the picture, no-target score 0.') == 2 and '(area, threshold 0.01)' in out
    status, _, err = shell(capsys, *common[:-1], folder / 'plain', '--no-target-threshold', 0.5)
    assert status == 2 and 'this model has not' in err
    assert NO_TARGET_BY == ('head', *MASK_RULES)


def test_the_legend_says_which_sentence_is_not_in_the_picture(folder, scores):
    some, none = (ask(folder, no_target=value, return_vis=True)['visualization'][0] for value in (max(scores), 0.9999))
    assert some.shape == none.shape and not np.array_equal(some, none)
