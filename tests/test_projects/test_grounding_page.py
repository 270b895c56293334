"""Boxes on the web page: what it draws, writes and tells a program, without the page itself."""

import json
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from mmetris.apis import RefSegPredictor
from tests import toy_grounding
from tests.test_projects.test_gradio_demo import load_app, session
from tests.toy_grounding import POOLED, TRANSFORMER
from tests.toy_inference import picture, save_toy_model

TEXTS = ['the left dog', 'a brown cat']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('boxes')
    toy_grounding.save(folder / 'pooled', POOLED)
    toy_grounding.save(folder / 'transformer', TRANSFORMER)
    save_toy_model(folder / 'masks')
    Image.fromarray(picture(48, 80)).save(folder / 'picture.png')
    return folder


@pytest.mark.parametrize('name', ['pooled', 'transformer', 'masks'])
def test_boxes_on_page_in_files_and_for_programs(folder, tmp_path, name):
    predictor = RefSegPredictor(folder / name, device='cpu')
    has_masks = name != 'transformer'
    for limits in (session.Limits(), session.Limits(max_values=2000)):  # On the picture's grid and on a coarser one.
        visit = session.Session(predictor, limits)
        answers = visit.ask(str(folder / 'picture.png'), session.SENTENCES, '\n'.join(TEXTS))
        expected = visit.predictor.predict(TEXTS, boxes=True)
        found = answers.as_dict(0.35, boxes=True)['boxes']
        for one, boxes in zip(found, expected['pred_boxes'], strict=True):
            left, top, right, bottom = boxes[0].tolist()
            # Those around a mask of the coarser grid are as coarse.
            far = 3 if name == 'masks' and limits.max_values == 2000 else 0.01
            assert one['bbox'] == pytest.approx([left, top, right - left, bottom - top], abs=far)
    plain, framed = answers.draw(0.35)[0], answers.draw(0.35, boxes=True)[0]
    assert np.array_equal(plain, framed) != has_masks
    rows = answers.draw(0.35)[1]
    assert [row.text for row in rows] == TEXTS and all(row.box is not None and 0 < row.share <= 1 for row in rows)
    assert ('boxes' in answers.as_dict(0.35)) != has_masks
    with zipfile.ZipFile(answers.write_files(0.35, tmp_path, boxes=True)[1]) as file:
        assert len(json.loads(file.read('predictions.json'))['boxes']) == 2
        assert any(path.startswith('masks/') for path in file.namelist()) == has_masks


def test_the_switch_belongs_to_models_that_have_masks(folder, monkeypatch):
    pytest.importorskip('gradio')
    monkeypatch.setitem(sys.modules, 'session', session)
    page = load_app().Page
    predictors = {name: RefSegPredictor(folder / name, device='cpu') for name in ('pooled', 'transformer', 'masks')}
    switches = {name: page._boxes_of(one) for name, one in predictors.items()}
    assert [one['visible'] for one in switches.values()] == [True, False, True]
    assert switches['pooled']['label'].endswith('box head') and switches['masks']['label'].endswith('around the masks')
    assert page._modes(predictors['transformer'])['choices'] == [session.SENTENCES]
    assert not page._threshold_of(predictors['transformer'])['visible']
