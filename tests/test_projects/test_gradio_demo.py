"""The web page: what it answers, and the page itself in a real browser."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from PIL import Image
from pycocotools import mask as coco_mask

from mmetris.apis import RefSegInferencer, RefSegPredictor
from mmetris.apis.shapes_only import NOTE, ShapesNotes
from mmetris.models.decode_heads import NoTargetRule
from mmetris.visualization.palette import color_of
from tests.quiet_start import assert_quiet
from tests.toy_inference import ROOT, picture, save_model_with_clicks, save_toy_model

DEMO = ROOT / 'projects' / 'gradio_demo'
TEXTS = ['the left dog', 'a brown cat']


def load(name):
    """A module of the project, which is no package."""
    spec = importlib.util.spec_from_file_location(f'gradio_demo_{name}', DEMO / f'{name}.py')
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


session = load('session')


def load_app():
    """The page's module, which imports its neighbour by name."""
    sys.modules.setdefault('session', session)
    return load('app')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('page')
    save_toy_model(folder / 'model')
    save_toy_model(folder / 'second', seed=4)
    save_model_with_clicks(folder / 'clicks')
    Image.fromarray(picture(48, 80)).save(folder / 'picture.png')
    Image.fromarray(picture(60, 60, seed=2)).save(folder / 'other.png')
    (folder / 'broken.png').write_bytes(b'\x89PNG\r\n\x1a\nno picture')
    Image.new('RGB', (3000, 2000)).save(folder / 'large.png')
    (folder / 'heavy.png').write_bytes(os.urandom(2_500_000))
    (folder / 'examples').mkdir()
    Image.fromarray(picture(40, 70, seed=3)).save(folder / 'examples' / 'one.png')
    (folder / 'examples' / 'one.txt').write_text('the left dog\na cat')
    return folder


@pytest.fixture(scope='module')
def predictor(folder):
    return RefSegPredictor(folder / 'model', device='cpu')


@pytest.fixture
def visit(predictor):
    return session.Session(predictor, session.Limits(max_pixels=10000, max_megabytes=2, max_texts=5))


def test_answers_are_those_of_the_inferencer(folder, visit):
    answers = visit.ask(str(folder / 'picture.png'), session.SENTENCES, '  the left   dog \n\na brown cat\n')
    assert answers.texts == TEXTS
    expected = RefSegInferencer(folder / 'model', device='cpu', show_progress=False)(folder / 'picture.png', TEXTS)
    rows, masks = answers.masks_at(0.35)
    for index, mask in enumerate(expected['masks']):
        assert 0.05 < mask.mean() < 0.95 and np.array_equal(mask, masks[index])
        assert rows[index].score == pytest.approx(expected['scores'][index])
        assert rows[index].box == tuple(expected['boxes'][index])


def test_what_the_shipped_model_does_not_know_is_said_of_the_picture(folder, visit, monkeypatch, recwarn):
    monkeypatch.setattr(visit.predictor.asker, 'notes', ShapesNotes())  # As if the toy model shipped.
    answers = visit.ask(str(folder / 'picture.png'), session.SENTENCES, 'a cat')
    assert answers.draw(0.35)[2].startswith('The image is unlike the drawn pictures that the model was trained on')
    assert len(answers.notes) == 1
    archive = answers.write_files(0.35, Path(visit.files.name))[1]
    written = json.loads(zipfile.ZipFile(archive).read('predictions.json'))
    assert written['info']['note'] == NOTE and written['images'][0]['note'] == answers.note != NOTE
    Image.new('RGB', (60, 40), (120, 120, 120)).save(folder / 'dull.png')
    answers = visit.ask(str(folder / 'dull.png'), session.SENTENCES, 'a cat')
    assert answers.note == NOTE and not answers.notes


def test_moving_the_threshold_asks_the_model_nothing(folder, visit, monkeypatch):
    path = str(folder / 'picture.png')
    answers = visit.ask(path, session.SENTENCES, '\n'.join(TEXTS))
    expected = visit.predictor.predict(TEXTS, threshold=0.6)['masks']

    def fail(*_, **__):
        raise AssertionError('the model was asked')

    monkeypatch.setattr(visit.predictor.model, 'forward_answers', fail)
    monkeypatch.setattr(visit.predictor.model, 'encode_images', fail)
    masks = answers.masks_at(0.6)[1]
    assert all(np.array_equal(mask, wanted) for mask, wanted in zip(masks, expected))
    assert masks[0].sum() < answers.masks_at(0.2)[1][0].sum()
    assert not np.array_equal(answers.draw(0.6)[0], answers.draw(0.2)[0])


def test_a_picture_is_encoded_once_for_all_its_questions(folder, visit):
    for text in ('the left dog', 'a cat', 'one'):
        visit.ask(str(folder / 'picture.png'), session.SENTENCES, text)
    assert visit.num_encoded == 1
    visit.ask(str(folder / 'other.png'), session.SENTENCES, 'a cat')
    assert visit.num_encoded == 2


def test_class_names_give_the_label_map_of_the_predictor(folder, visit):
    answers = visit.ask(str(folder / 'picture.png'), session.CLASSES, 'dog, cat\ngrass')
    for threshold in (0.35, 0.45):
        expected = visit.predictor.label_map(['dog', 'cat', 'grass'], threshold)
        assert len(np.unique(expected)) > 1
        assert np.array_equal(answers.labels_at(threshold), expected)
    rows, masks = answers.masks_at(0.35)
    assert [row.share for row in rows] == sorted((mask.mean() for mask in masks), reverse=True)
    assert [answers.texts[row.number] for row in rows] == [row.text for row in rows]


def test_a_names_list_is_never_a_file_or_a_data_set(folder, visit):
    names = folder / 'names.txt'
    names.write_text('dog\ncat\n')
    with pytest.raises(ValueError, match='at least two classes'):
        visit.ask(str(folder / 'picture.png'), session.CLASSES, str(names))


@pytest.mark.parametrize(
    ('file', 'mode', 'text', 'message'),
    [
        (None, 'Sentences', 'a dog', 'Load a picture first'),
        ('broken.png', 'Sentences', 'a dog', 'broken.png cannot be read as an image'),
        ('large.png', 'Sentences', 'a dog', 'large.png is too large: 3000 x 2000'),
        ('heavy.png', 'Sentences', 'a dog', 'heavy.png is too large: 2.5 MB; at most 2 MB'),
        ('picture.png', 'Sentences', ' \n ', 'Type a sentence'),
        ('picture.png', 'Sentences', None, 'Type a sentence'),
        ('picture.png', 'Sentences', '1\n2\n3\n4\n5\n6', '6 are too many: at most 5'),
        ('picture.png', 'Class names', 'dog', 'at least two classes'),
        ('picture.png', 'Class names', ',', 'at least two classes'),
    ],
)
def test_mistakes_are_explained(folder, visit, file, mode, text, message):
    with pytest.raises(ValueError, match=message):
        visit.ask(file and str(folder / file), mode, text)


def test_many_sentences_about_a_large_picture_are_kept_on_a_coarser_grid(predictor, tmp_path):
    Image.fromarray(picture(240, 400)).save(tmp_path / 'wide.png')
    question = str(tmp_path / 'wide.png'), session.SENTENCES, '\n'.join([*TEXTS, 'one'])
    limits = session.Limits(max_values=2 * 240 * 400)
    exact, answers = (session.Session(predictor, each).ask(*question) for each in (session.Limits(), limits))
    height, width = answers.probabilities[0].shape
    assert (height, width) == (195, 326) and 3 * height * width <= limits.max_values
    rows, exact_rows = answers.masks_at(0.35)[0], exact.masks_at(0.35)[0]
    for row, exact_row in zip(rows, exact_rows, strict=True):
        assert row.share == pytest.approx(exact_row.share, abs=0.01)
        assert row.score == pytest.approx(exact_row.score, abs=0.01)
        assert np.abs(np.subtract(row.box, exact_row.box)).max() <= 2, 'in pixels of the picture'
    assert answers.draw(0.35)[0].shape == exact.draw(0.35)[0].shape
    with zipfile.ZipFile(answers.write_files(0.35, tmp_path)[1]) as file:
        mask = np.asarray(Image.open(io.BytesIO(file.read('masks/wide_2.png')))) == 1
    assert mask.shape == (240, 400) and (mask != exact.masks_at(0.35)[1][1]).mean() < 0.01


def test_a_program_gets_what_the_json_of_the_inferencer_has(folder, visit, tmp_path):
    path = str(folder / 'picture.png')
    RefSegInferencer(folder / 'model', device='cpu', show_progress=False)(path, TEXTS, out_dir=tmp_path)
    expected = json.loads((tmp_path / 'predictions.json').read_text())['annotations']
    found = visit.ask(path, session.SENTENCES, '\n'.join(TEXTS)).as_dict(0.35)
    assert (found['height'], found['width'], found['threshold']) == (48, 80, 0.35)
    for answer, annotation in zip(found['answers'], expected, strict=True):
        assert answer['score'] == pytest.approx(annotation['score'])
        assert all(answer[key] == annotation[key] for key in ('expression', 'segmentation', 'bbox', 'area'))
    answers = visit.ask(path, session.CLASSES, 'dog, cat')
    found = answers.as_dict(0.35)['classes']
    assert [(one['name'], one['share']) for one in found] == [
        (row.text, row.share) for row in answers.masks_at(0.35)[0]
    ]
    json.dumps(found)


def test_models_are_chosen_by_names_that_the_page_was_started_with(folder):
    models = session.Models([str(folder / 'model'), str(folder / 'second'), str(folder / 'model')], device='cpu')
    assert models.names == ['model', 'second', 'model (2)']
    assert models.get() is models.get('model') is not models.get('second')
    for name in (str(folder / 'model'), '../model', '', 'x' * 1000):
        with pytest.raises(ValueError, match='There is no model “.{0,61}” here, but model, second, model'):
            models.get(name)
    assert session.Models([None]).names == ['etris_tiny_long-192px_shapes']
    with pytest.raises(FileNotFoundError, match='none'):
        session.Models([str(folder / 'model'), 'none'])
    with pytest.raises(ValueError, match='--weights belongs to one model'):
        session.Models(['a', 'b'], weights='c.pth')


def test_another_model_sees_the_picture_anew(folder, visit):
    path = str(folder / 'picture.png')
    before = visit.ask(path, session.SENTENCES, 'a cat')
    other = RefSegPredictor(folder / 'second', device='cpu')
    visit.use(other)
    after = visit.ask(path, session.SENTENCES, 'a cat')
    other.set_image(path)
    assert np.array_equal(after.probabilities[0], other.predict('a cat')['probabilities'][0])
    assert visit.num_encoded == 2 and not np.array_equal(before.probabilities[0], after.probabilities[0])


def test_the_history_is_bounded_and_a_repeated_question_stands_in_it_once(visit):
    for number in (*range(12), 5):
        visit.remember(session.Question('a.png', 'model', session.SENTENCES, str(number)), picture(300, 500))
    texts = [question.text for question, _ in visit.history]
    assert texts == ['5', '11', '10', '9', '8', '7', '6', '4']
    assert visit.history[0][1].shape == (120, 200, 3)


def test_examples_are_a_folders_pictures_with_the_texts_beside_them(folder, tmp_path):
    app = pytest.importorskip('gradio') and load_app()
    with pytest.raises(FileNotFoundError, match='no pictures'):
        app.examples_of(tmp_path)
    for name in ('b.png', 'a.png', 'notes.md'):
        (tmp_path / name).write_bytes((folder / 'picture.png').read_bytes())
    (tmp_path / 'a.txt').write_text('\ufeffthe left dog\na cat\n')
    first, second = app.examples_of(tmp_path)
    assert (first.picture.name, app.caption_of(first.text)) == ('a.png', 'the left dog +1')
    assert second.text == '' and np.array_equal(second.read(10000), picture(48, 80))
    with pytest.raises(ValueError, match='too large'):
        second.read(100)
    drawn = app.drawn_example(0)
    assert 1 <= len(drawn.text.split('\n')) <= 3 and drawn.read(1).shape[2] == 3


def test_what_is_not_found_and_what_was_cut_is_said(folder, visit):
    texts = ['a dog', 'very ' * 3000 + 'long', 'ein Hündchén']
    answers = visit.ask(str(folder / 'picture.png'), session.SENTENCES, '\n'.join(texts))
    message = answers.draw(0.99)[2]
    assert 'Nothing found for “a dog”: no pixel is above the threshold of 0.99 (the highest probability is' in message
    assert 'too long: the model reads the first 15 tokens' in message and 'not English' in message
    nowhere = session.Answers(
        picture(48, 80), 'a.png', ['dog', 'cat'], [np.full((48, 80), 0.3)], np.zeros((48, 80), np.uint8)
    )
    plain, rows, message = nowhere.draw(0.35)
    assert rows == [] and np.array_equal(plain, nowhere.image)
    assert 'above the threshold of 0.35 for any class (the highest probability is 0.30)' in message


def test_not_in_the_picture_is_said_with_score_and_threshold_and_written(folder, tmp_path):
    save_toy_model(folder / 'headed', decode_head=dict(no_target_head=dict(channels=8)))
    first = RefSegPredictor(folder / 'headed', device='cpu')
    first.set_image(folder / 'picture.png')
    scores = first.predict(TEXTS)['no_target_scores']
    absent = scores.index(max(scores))
    visit = session.Session(RefSegPredictor(folder / 'headed', device='cpu', no_target=max(scores)), session.Limits())
    answers = visit.ask(str(folder / 'picture.png'), session.SENTENCES, '\n'.join(TEXTS))
    for threshold in (0.35, 0.2):  # Moving it brings no absent object back.
        picture_of_page, rows, message = answers.draw(threshold)
        assert rows[absent].no_target and rows[absent].box is None and rows[1 - absent].box is not None
        assert [row.no_target_score for row in rows] == scores
        assert f'“{TEXTS[absent]}” is not in the picture' in message and 'Nothing found' not in message
        assert f'{max(scores):.2f}, from {max(scores):g} on' in message
    files = answers.write_files(0.35, tmp_path)
    with zipfile.ZipFile(files[1]) as archive:
        content = json.loads(archive.read('predictions.json'))
    assert content['info']['no_target'] == dict(by='head', threshold=max(scores))
    assert [one['no_target'] for one in content['annotations']] == [index == absent for index in range(2)]
    labels = visit.ask(str(folder / 'picture.png'), session.CLASSES, '\n'.join(TEXTS)).labels_at(0.35)
    assert absent not in labels and np.array_equal(labels, visit.predictor.label_map(TEXTS, 0.35))


def test_clicks_correct_one_mask_and_are_taken_back(folder):
    visit = session.Session(RefSegPredictor(folder / 'clicks', device='cpu'), session.Limits())
    path = str(folder / 'picture.png')
    answers = visit.ask(path, session.SENTENCES, '\n'.join(TEXTS))
    before = [*answers.probabilities]
    plain = answers.draw(0.35)[0]
    visit.click(answers, 1, (0.5, 0.5), 1)
    first = answers.probabilities[1]
    visit.click(answers, 1, (1, 0), 0)
    assert [(click.x, click.y, click.label) for click in answers.clicks[1]] == [(39.5, 23.5, 1), (79, 0, 0)]
    own = visit.predictor.predict(TEXTS[1], points=[(39.5, 23.5)], labels=[1])
    assert np.array_equal(first, own['probabilities'][0]) and answers.probabilities[0] is before[0]
    again = dict(points=[(39.5, 23.5), (79, 0)], labels=[1, 0], previous=own['logits'][0])
    own = visit.predictor.predict(TEXTS[1], **again)
    assert np.array_equal(answers.probabilities[1], own['probabilities'][0]) and visit.num_encoded == 1
    drawn = answers.draw(0.35)[0].astype(int)
    height, width = answers.drawn_hw
    assert drawn.shape == plain.shape == (height, width, 3)
    for (x, y), label in (((0.5, 0.5), 1), ((0.9937, 0.0104), 0)):
        around = drawn[max(0, int(y * height) - 9) : int(y * height) + 10, int(x * width) - 9 :][:, :19]
        assert (around == session.CLICK_COLORS[label]).all(-1).any() and (around == 255).all(-1).any()
    visit.take_back(answers, 1)
    assert np.array_equal(answers.probabilities[1], first) and len(answers.clicks[1]) == 1
    visit.take_back(answers, 1, count=9)
    assert answers.probabilities[1] is before[1] and np.array_equal(answers.draw(0.35)[0], plain)
    for number, text, message in [(2, session.SENTENCES, 'Choose the sentence'), (0, session.CLASSES, 'Choose')]:
        with pytest.raises(ValueError, match=message):
            visit.click(visit.ask(path, text, '\n'.join(TEXTS)), number, (0.5, 0.5), 1)
    answers.clicks[0] = [session.PictureClick(1, 1, 1)] * session.MAX_CLICKS
    with pytest.raises(ValueError, match='at most 20 clicks'):
        visit.click(answers, 0, (0.5, 0.5), 1)


def test_a_model_without_head_takes_no_clicks(folder, visit):
    answers = visit.ask(str(folder / 'picture.png'), session.SENTENCES, 'a cat')
    assert not visit.takes_clicks
    with pytest.raises(ValueError, match='takes no clicks'):
        visit.click(answers, 0, (0.5, 0.5), 1)


def test_the_table_of_the_page_has_the_score_where_there_is_one():
    app = pytest.importorskip('gradio') and load_app()
    rows = [session.Row(0, 'the red ring', 0.0, None, None, 0.91, True)]
    table = app.show_table(rows, True)
    assert 'not in the picture' in table and 'no-target score' in table and '0.91' in table
    plain = app.show_table([session.Row(0, 'the red ring', 0.0)], True)
    assert 'nothing found' in plain and 'no-target' not in plain
    row = session.Row(8, 'the ring', 0.0042, 0.876, (0, 0, 9, 9))
    for text in (f'background: rgb{color_of(8)}', '>9<', '>88 %<', '>0.4 %<'):
        assert text in app.show_table([row], True), 'colours, numbers and percent are those of the pictures'
    told = app.describe_rule(NoTargetRule('head', 0.5))
    assert '(head) is 0.5 or more: not in the picture' in told and app.describe_rule(None) == ''


def test_downloads_hold_masks_at_the_threshold_and_at_the_pictures_size(folder, visit, tmp_path):
    answers = visit.ask(str(folder / 'picture.png'), session.SENTENCES, '\n'.join(TEXTS))
    overlay, archive = answers.write_files(0.5, tmp_path)
    assert Image.open(overlay).width == 480
    with zipfile.ZipFile(archive) as file:
        assert {'masks/picture_1.png', 'masks/picture_2.png', 'overlays/picture.jpg', 'predictions.json'} == set(
            file.namelist()
        )
        mask = np.asarray(Image.open(io.BytesIO(file.read('masks/picture_2.png'))))
    assert np.array_equal(mask == 1, answers.masks_at(0.5)[1][1])
    answers = visit.ask(str(folder / 'picture.png'), session.CLASSES, 'dog, cat')
    with zipfile.ZipFile(answers.write_files(0.4, tmp_path)[1]) as file:
        labels = np.asarray(Image.open(io.BytesIO(file.read('labels/picture.png'))))
    assert np.array_equal(labels, answers.labels_at(0.4))


def test_letters_and_names_that_are_no_unicode_can_be_shown_and_written(folder, visit, tmp_path):
    path = tmp_path / ('caf\udce9' + 'x' * 200 + '.png')
    path.write_bytes((folder / 'picture.png').read_bytes())
    for mode, text in ((session.SENTENCES, 'the \ud83d'), (session.CLASSES, 'dog, \ud83d')):
        answers = visit.ask(str(path), mode, text)
        assert answers.texts[-1] in ('the \ufffd', '\ufffd')
        picture, archive = answers.write_files(0.4, tmp_path / 'out')
        assert Path(picture).is_file() and zipfile.is_zipfile(archive)


# The page in a browser


@contextmanager
def serve(folder, *arguments, app=DEMO / 'app.py'):
    """The page's address, while the page runs as users start it; what it prints and leaves is checked at the end."""
    pytest.importorskip('gradio', reason='gradio is not installed (projects/gradio_demo/requirements.txt)')
    left = Path(tempfile.mkdtemp(prefix='gradio_', dir=folder))
    env = dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='-1', TMPDIR=str(left), GRADIO_TEMP_DIR=str(left))
    process = subprocess.Popen(
        [sys.executable, str(app), *map(str, arguments)],
        cwd=folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    killer = threading.Timer(400, process.kill)
    killer.start()
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r'http://\S+', line):
                break
        else:
            pytest.fail(f'the page did not start:\n{"".join(lines)}')
        own = set(left.rglob('*.*'))  # its examples
        yield found[0]
    finally:
        killer.cancel()
        process.terminate()
        rest = process.communicate(timeout=600)[0]
    assert 'Traceback' not in ''.join(lines) + rest, rest
    of_visitors = {*left.rglob('*.*'), *left.glob('mmetris_page_*')} - own
    assert [str(path.relative_to(left)) for path in of_visitors] == []


@pytest.fixture(scope='module')
def address(folder):
    limits = ('--max-pixels', '100000', '--max-megabytes', '2')
    with serve(
        folder, '--model', 'model', '--model', 'second', '--examples', 'examples', '--device', 'cpu', *limits
    ) as found:
        yield found


@pytest.fixture(scope='module')
def browser():
    """Headless Chromium: playwright's own, or the machine's."""
    api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    with api.sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        names = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
        found = own if own.is_file() else next(filter(None, map(shutil.which, names)), None)
        if found is None:
            pytest.skip('no Chromium: playwright install chromium, or apt-get install chromium')
        browser = playwright.chromium.launch(executable_path=str(found), args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.fixture
def page(address, browser):
    """The page, freshly opened; it may fetch from its own server only and never show a traceback."""
    context = browser.new_context(viewport=dict(width=1180, height=900), accept_downloads=True)
    page, elsewhere = context.new_page(), []
    page.set_default_timeout(300_000)
    page.on(
        'request',
        lambda request: None if request.url.startswith((address, 'data:', 'blob:')) else elsewhere.append(request.url),
    )
    page.goto(address)
    page.wait_for_selector('#segment')
    yield page
    assert 'Traceback' not in page.content() and not elsewhere
    context.close()


def upload(page, path):
    page.set_input_files('#picture input[type=file]', str(path))
    page.wait_for_selector('#picture img')


def ask(page, text):
    page.fill('#text textarea', text)
    page.click('#segment')


def shown(page):
    """The picture with the masks, as the browser got it."""
    answer = page.request.get(page.get_attribute('#result img', 'src'))
    return np.asarray(Image.open(io.BytesIO(answer.body())).convert('RGB')).astype(int)


@pytest.mark.processes
def test_upload_type_click_and_the_masks_are_shown(page, folder):
    upload(page, folder / 'picture.png')
    ask(page, '\n'.join(TEXTS))
    page.wait_for_selector('#answers table')
    table = page.inner_text('#answers')
    assert all(text in table for text in TEXTS)
    before, address = shown(page), page.get_attribute('#result img', 'src')
    assert before.shape[:2] == (288, 480)
    colors = [(0, 114, 178), (230, 159, 0)]
    assert all((np.abs(before - color).sum(-1) < 12).sum() > 100 for color in colors), 'a contour in each colour'

    page.fill('#threshold input[type=number]', '0.45')
    page.press('#threshold input[type=number]', 'Enter')
    page.wait_for_function('old => document.querySelector("#answers").innerText !== old', arg=table)
    page.wait_for_function('old => document.querySelector("#result img").getAttribute("src") !== old', arg=address)
    assert not np.array_equal(shown(page), before)

    page.wait_for_selector('#save_masks:not([disabled])')
    with page.expect_download() as download:
        page.click('#save_masks')
    with zipfile.ZipFile(download.value.path()) as file:
        assert 'masks/picture_2.png' in file.namelist()
    with page.expect_download() as download:
        page.click('#save_picture')
    assert Image.open(download.value.path()).width == 480


@pytest.mark.processes
def test_class_names_on_the_page(page, folder):
    page.click('#mode label:has-text("Class names")')
    upload(page, folder / 'other.png')
    ask(page, 'dog, cat, grass')
    page.wait_for_selector('#answers table')
    assert re.search(r'(dog|cat|grass)\s+\d+ %', page.inner_text('#answers'))


@pytest.fixture(scope='module')
def clicks_address(folder):
    with serve(folder, '--model', 'model', '--model', 'clicks', '--device', 'cpu') as found:
        yield found


@pytest.mark.processes
def test_clicking_on_the_masks_corrects_them(clicks_address, browser, folder):
    context = browser.new_context(viewport=dict(width=1180, height=1000))
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(clicks_address)
    upload(page, folder / 'picture.png')
    assert not page.is_visible('#clicking'), 'this model takes no clicks'
    page.click('#model input')
    page.click('#model [role=option]:has-text("clicks")')
    page.wait_for_selector('#clicking', state='visible')
    ask(page, '\n'.join(TEXTS))
    page.wait_for_selector('#answers table')
    page.wait_for_selector('#save_masks:not([disabled])')

    def change(step):
        address = page.get_attribute('#result img', 'src')
        step()
        page.wait_for_function('old => document.querySelector("#result img").getAttribute("src") !== old', arg=address)
        return shown(page)

    plain = shown(page)
    image = page.locator('#result img')
    box = image.bounding_box()
    # A quarter from the left of the picture, which is never enlarged, in the middle of its height.
    scale = min(box['width'] / plain.shape[1], box['height'] / plain.shape[0], 1)
    place = dict(x=box['width'] / 2 - plain.shape[1] * scale / 4, y=box['height'] / 2)
    once = change(lambda: image.click(position=place))
    x, y = plain.shape[1] // 4, plain.shape[0] // 2
    disc = (once[y - 12 : y + 13, x - 12 : x + 13] == session.CLICK_COLORS[1]).all(-1)
    assert disc.sum() > 20 and np.abs(np.argwhere(disc).mean(0) - 12).max() < 3, 'where it was clicked'
    page.click('#label label:has-text("does not")')
    twice = change(lambda: image.click(position=dict(place, x=box['width'] / 2)))
    assert (twice == session.CLICK_COLORS[0]).all(-1).sum() > 20
    assert np.array_equal(change(lambda: page.click('#undo')), once)
    assert np.array_equal(change(lambda: page.click('#clear')), plain)
    assert 'Traceback' not in page.content()
    context.close()


@pytest.mark.processes
def test_an_example_by_keys_another_model_and_back_by_the_history(page):
    page.click('#examples button[aria-label="the left dog +1"]')
    page.wait_for_selector('#picture img')
    assert page.input_value('#text textarea') == 'the left dog\na cat'
    page.press('#text textarea', 'Control+Enter')
    page.wait_for_selector('#message .seconds:has-text("2 sentences: ")')
    page.wait_for_selector('#history button[aria-label="the left dog +1"]')
    first = shown(page)
    page.click('#model input')
    page.click('#model [role=option]:has-text("second")')
    page.wait_for_selector('#result img', state='detached')
    page.fill('#text textarea', 'one')
    page.click('#segment')
    page.wait_for_selector('#answers .text:text-is("one")')
    page.wait_for_selector('#history button[aria-label="one"]')
    page.click('#history button[aria-label="the left dog +1"]')
    page.wait_for_selector('#answers .text:text-is("the left dog")')
    assert page.input_value('#model input') == 'model' and np.array_equal(shown(page), first)


@pytest.mark.processes
def test_on_a_dark_phone_the_answer_is_on_top_and_everything_has_a_name(address, browser, folder):
    context = browser.new_context(viewport=dict(width=390, height=844), color_scheme='dark')
    page = context.new_page()
    page.set_default_timeout(300_000)
    page.goto(address)
    upload(page, folder / 'picture.png')
    ask(page, '\n'.join(TEXTS))
    page.wait_for_selector('#answers table')
    page.wait_for_function('scrollY === 0')
    box = page.locator('#result img').bounding_box()
    assert box['y'] > 0 and box['y'] + box['height'] < 844
    assert page.evaluate('document.documentElement.scrollWidth') <= 390
    for name in ('body', '#answers .text'):
        style = page.evaluate('name => [getComputedStyle(document.querySelector(name)), 0][0].color', name)
        assert min(map(int, re.findall(r'\d+', style)[:3])) > 150, 'light letters'
    assert page.get_attribute('#result img', 'alt') == 'The picture with masks of: the left dog; a brown cat'
    assert page.get_attribute('#message', 'role') == 'status' and page.get_attribute('html', 'lang') == 'en'
    nameless = page.evaluate("""() => [...document.querySelectorAll('input, textarea, button')].filter(
        each => each.checkVisibility() && !each.closest('[aria-hidden=true]') && each.type !== 'file' &&
            !(each.ariaLabel || each.title || each.innerText?.trim() || each.labels?.length ||
              each.querySelector('img[alt]:not([alt=""])'))
        ).map(each => each.outerHTML)""")
    assert not nameless
    context.close()


@pytest.mark.processes
def test_mistakes_are_explained_on_the_page(page, folder):
    def message(containing):
        page.wait_for_selector(f'#message .message:has-text("{containing}")')

    page.click('#segment')
    message('Type a sentence')
    ask(page, 'a dog')
    message('Load a picture first')
    page.set_input_files('#picture input[type=file]', str(folder / 'broken.png'))
    message('broken.png cannot be read as an image')
    page.reload()
    page.wait_for_selector('#segment')
    page.set_input_files('#picture input[type=file]', str(folder / 'large.png'))
    message('too large: 3000 x 2000 pixels')
    page.reload()
    page.wait_for_selector('#segment')
    upload(page, folder / 'picture.png')
    ask(page, '<b>a dog</b>')
    page.wait_for_selector('#answers table')
    assert '<b>a dog</b>' in page.inner_text('#answers'), 'a sentence is text, not HTML'
    ask(page, 'a dog')
    page.wait_for_selector('#answers .text:text-is("a dog")')
    page.fill('#threshold input[type=number]', '0.99')
    page.press('#threshold input[type=number]', 'Enter')
    message('no pixel is above the threshold of 0.99')


@pytest.mark.processes
def test_a_file_over_the_limit_is_refused_by_the_server(page, address, folder):
    # Sent without the page's own check, which might be switched off.
    refused = page.request.post(
        f'{address}gradio_api/upload',
        multipart=dict(files=dict(name='heavy.png', mimeType='image/png', buffer=(folder / 'heavy.png').read_bytes())),
    )
    assert refused.status == 413
    page.set_input_files('#picture input[type=file]', str(folder / 'heavy.png'))
    page.wait_for_selector('text=/exceed|too large|maximum/i')


def post(address: str, session: str, data: list, step: str, waits: bool = True) -> str:
    """What the page answers to a request for one of its steps, as a program sends it; nothing to one who leaves."""
    config = json.loads(urllib.request.urlopen(f'{address}config', timeout=600).read())
    inputs = {'check': 4, 'ask': 7}[step]
    steps = [one for one in config['dependencies'] if len(one['inputs']) == inputs and one['targets']]
    index = min(one['id'] for one in steps)
    body = json.dumps(dict(data=data, fn_index=index, session_hash=session)).encode()
    request = urllib.request.Request(
        f'{address}gradio_api/queue/join', data=body, headers={'Content-Type': 'application/json'}
    )
    urllib.request.urlopen(request, timeout=600).read()
    if not waits:
        return ''
    with urllib.request.urlopen(f'{address}gradio_api/queue/data?session_hash={session}', timeout=600) as answer:
        for line in answer:
            if b'process_completed' in line:
                return line.decode()
    return ''


@pytest.mark.processes
def test_requests_open_no_file_but_uploads_and_many_at_once_leave_the_page_up(address, folder):
    """A payload without its "meta" passes gradio by: any path of the server could be named in it."""
    pipe = folder / 'pipe.png'
    os.mkfifo(pipe)
    foreign = [str(folder / 'picture.png'), str(pipe), '/dev/zero']
    foreign += [str(cache / '..' / 'picture.png') for cache in folder.glob('gradio_*')]

    def send(number: int) -> str:
        data = [dict(path=foreign[number % len(foreign)]), 'Sentences', 'a dog', 0.5, None, 'model', False]
        if number % 3 == 0:
            post(address, f'gone{number}', data, 'ask', waits=False)
        return post(address, f'load{number}', data, 'ask')

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(send, range(50)))
    for answer in answers:
        assert 'This picture was not loaded on this page.' in answer and 'Traceback' not in answer
    assert 'This picture was not loaded' in post(
        address, 'check', [dict(path=foreign[0]), 'model', None, None], 'check'
    )
    assert urllib.request.urlopen(address, timeout=600).status == 200


@pytest.mark.processes
def test_programs_call_the_page_by_name(address, folder):
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(address, verbose=False)
    names = {'/models', '/segment', '/classes', '/classify'}
    assert set(client.view_api(return_format='dict')['named_endpoints']) == names
    assert client.predict(api_name='/models') == ['model', 'second']
    sent = handle_file(folder / 'picture.png')
    for name in ('model', 'second'):
        inferencer = RefSegInferencer(folder / name, device='cpu', show_progress=False)
        found = client.predict(sent, TEXTS, model=name, threshold=0.4, api_name='/segment')
        assert (found['model'], found['threshold']) == (name, 0.4) and found['seconds']['asking'] > 0
        expected = inferencer(folder / 'picture.png', TEXTS, threshold=0.4)['masks']
        for answer, mask in zip(found['answers'], expected, strict=True):
            assert np.array_equal(coco_mask.decode(answer['segmentation']) == 1, mask)
    classes = client.predict(sent, ['dog', 'cat'], api_name='/classes')['classes']
    assert {one['name'] for one in classes} <= {'dog', 'cat'}
    for name, arguments, message in [
        ('/segment', (sent, []), 'Type a sentence'),
        ('/segment', (sent, [1]), 'a list of texts'),
        ('/segment', (sent, list('abcdefghijklmnopqrstu')), '21 are too many'),
        ('/segment', (sent, ['a'], '../model'), 'There is no model'),
        ('/segment', (sent, ['a'], 'model', 3), 'threshold'),
        ('/segment', (dict(path=str(folder / 'picture.png')), ['a']), 'was not loaded on this page'),
        ('/segment', ('/etc/passwd', ['a']), 'Load a picture'),
        ('/segment', (handle_file(folder / 'broken.png'), ['a']), 'cannot be read as an image'),
        ('/segment', (handle_file(folder / 'large.png'), ['a']), 'too large: 3000 x 2000'),
        ('/classes', (sent, ['dog']), 'at least two classes'),
        ('/classify', (sent, ['dog', 'cat']), 'does not name the class of a picture'),
    ]:
        with pytest.raises(AppError, match=message):
            client.predict(*arguments, api_name=name)


@pytest.mark.processes
def test_only_this_machine_reaches_the_page(address):
    host, port = re.match(r'http://([\d.]+):(\d+)', address).groups()
    assert host == '127.0.0.1'
    if sys.platform == 'linux':  # There 127.0.0.2 reaches what listens at all addresses.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(('127.0.0.2', int(port)), timeout=5)


@pytest.mark.processes
def test_a_space_has_its_settings_and_runs_by_its_own_files(folder, tmp_path):
    pytest.importorskip('gradio', reason='gradio is not installed')
    from gradio_client import Client, handle_file

    load('space').write_space(tmp_path / 'space')
    with pytest.raises(FileExistsError, match='not empty'):
        load('space').write_space(tmp_path / 'space')
    _, front, text = (tmp_path / 'space' / 'README.md').read_text(encoding='utf-8').split('---\n')
    settings = yaml.safe_load(front)
    assert settings['sdk'] == 'gradio' and settings['app_file'] == 'app.py' and 'MMETRIS_MODELS' in text
    assert settings['sdk_version'] == version('gradio') and re.fullmatch(r'3\.\d+', settings['python_version'])
    needed = {Requirement(line).name for line in (tmp_path / 'space' / 'requirements.txt').read_text().split('\n')[:-1]}
    assert {'torch', 'open_clip_torch', 'onedl-mmsegmentation'} <= needed and not {'gradio', 'pytest'} & needed
    (tmp_path / 'space' / 'mmetris' / 'version.py').write_text("__version__ = 'of the Space'\n")
    program = 'import mmetris.version; print(mmetris.version.__version__)'
    command = [sys.executable, '-c', program]
    space = tmp_path / 'space'
    assert subprocess.run(command, cwd=space, capture_output=True, text=True).stdout.strip() == 'of the Space'
    with serve(tmp_path, '--device', 'cpu', app=tmp_path / 'space' / 'app.py') as found:
        client = Client(found, verbose=False)
        assert client.predict(api_name='/models') == ['etris_tiny_long-192px_shapes']
        found = client.predict(handle_file(folder / 'picture.png'), ['the ring'], api_name='/segment')
        assert found['answers'][0]['segmentation']['size'] == [48, 80]
        assert 'drawn' in found['notes'][0]


@pytest.mark.parametrize('words', [('--port', '99999'), ('--port', '0'), ('--max-pixels', '0')])
def test_numbers_that_cannot_be_are_refused_before_a_model_is_loaded(monkeypatch, capsys, words):
    pytest.importorskip('gradio', reason='gradio is not installed')
    monkeypatch.setattr(sys, 'argv', ['app.py', *words])
    with pytest.raises(SystemExit) as ended:
        load_app().main()
    assert ended.value.code == 2 and words[0] in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.processes
def test_missing_weights_end_with_one_line(folder):
    pytest.importorskip('gradio', reason='gradio is not installed')
    done = subprocess.run(
        [sys.executable, str(DEMO / 'app.py'), '--model', 'none'],
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=900,
    )
    assert done.returncode == 2 and done.stdout == ''
    assert_quiet(done.stderr)
    assert done.stderr.strip().split('\n')[-1].startswith("error: no model, file or folder is called 'none'")
    assert 'Traceback' not in done.stderr
