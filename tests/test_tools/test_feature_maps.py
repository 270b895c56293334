"""The figure of feature maps without and with the Bridger, as real processes and on its parts."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from mmetris.apis.asking import Asker
from tests.test_tools.test_tools import TOOLS, run
from tests.toy_inference import picture, save_toy_model

SCRIPT = TOOLS / 'analysis_tools' / 'feature_maps.py'
TEXTS = ['the left dog', 'a brown cat']


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('feature_maps', SCRIPT)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return save_toy_model(tmp_path_factory.mktemp('some where') / 'a space')


@pytest.fixture(scope='module')
def asker(tool, model) -> Asker:
    return tool.load(str(model[0]), str(model[1]), 'cpu')


def test_without_the_bridger_maps_are_the_frozen_encoders_and_know_no_sentence(tool, asker):
    image = picture(48, 80)
    first, second = tool.make_columns(asker, image, TEXTS, 'first')
    assert np.allclose(first.without, second.without)
    assert not np.allclose(first.with_bridger, second.with_bridger)
    assert not np.allclose(first.without, first.with_bridger)
    encoder = asker.model.backbone
    with torch.no_grad():
        state = encoder.stem(asker.encode([image], ['x']).inputs)
        for stage in range(1, encoder.out_stages[0] + 1):
            state = encoder.stage(stage, state)
        plain = encoder.feature_map(state).norm(dim=1)[0]
    expected = tool._at_picture(plain, asker.encode([image], ['x']).samples[0], (64, 64))
    assert np.allclose(first.without, expected, atol=1e-4)


def test_maps_and_masks_have_the_pictures_size_and_the_masks_are_the_predictions(tool, asker):
    column = tool.make_columns(asker, picture(48, 80), TEXTS[:1], 'fused')[0]
    assert column.without.shape == column.with_bridger.shape == column.mask.shape == (48, 80)
    answer = asker.ask(asker.encode([picture(48, 80)], ['x']), TEXTS[:1], [0])[0]
    assert np.array_equal(column.mask, answer.pred_sem_seg.data[0].numpy() == 1)


def test_the_bridger_is_there_again_afterwards(tool, asker):
    stages = asker.model.neck.stages
    with pytest.raises(RuntimeError), tool.passed_by(asker.model.neck):
        assert asker.model.neck.stages == ()
        raise RuntimeError
    assert asker.model.neck.stages == stages


def test_a_model_without_bridger_has_nothing_to_compare(tool, asker):
    with tool.passed_by(asker.model.neck), pytest.raises(ValueError, match='has no Bridger'):
        tool.make_columns(asker, picture(), TEXTS, 'first')


def test_colours_run_from_the_least_to_the_largest_value(tool):
    colors = tool.heat_map(np.linspace(0, 1, 10000).reshape(100, 100), (100, 100)).astype(int)
    assert np.abs(colors[0, 0] - (68, 1, 84)).max() < 5 and np.abs(colors[-1, -1] - (253, 231, 37)).max() < 5
    assert tool.heat_map(np.ones((4, 4)), (8, 8)).shape == (8, 8, 3)


@pytest.mark.processes
def test_the_figure_has_four_rows_and_a_column_for_each_sentence(model, tmp_path):
    Image.fromarray(picture(60, 90)).save(tmp_path / 'picture.png')
    printed = run(
        SCRIPT,
        *model,
        tmp_path / 'picture.png',
        *TEXTS,
        '--out',
        tmp_path / 'new' / 'figure.png',
        '--panel',
        '180',
        '--at',
        'last',
    )
    assert 'the left dog: the map changes by' in printed
    with Image.open(tmp_path / 'new' / 'figure.png') as figure:
        assert 2 * 180 < figure.width < 2 * 180 + 80 and 4 * 120 < figure.height < 4 * 120 + 120
    # The same model in the place of one trained without: no difference.
    printed = run(
        SCRIPT,
        model[0].parent,
        '-',
        tmp_path / 'picture.png',
        'a dog',
        '--without',
        *model,
        '--out',
        tmp_path / 'same.png',
    )
    assert 'a dog: the map changes by 0 %' in printed


@pytest.mark.processes
@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['none.png', 'a dog', '--out', 'x.png'], 'image not found: none.png'),
        (['picture.png', 'a dog', '--out', 'x.xyz'], 'needs the ending of a picture format'),
        (['picture.png', 'a dog', '--out', 'x.png', '--at', '9'], '--at 9: the decoder gets the stages'),
        (['picture.png', ' ', '--out', 'x.png'], 'sentence 1 is empty'),
    ],
)
def test_mistakes_end_with_one_line(model, tmp_path, options, message):
    Image.fromarray(picture()).save(tmp_path / 'picture.png')
    printed = run(SCRIPT, *model, *options, code=1, cwd=tmp_path)
    assert message in printed and 'Traceback' not in printed
