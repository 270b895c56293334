"""Models that classify on the web page: what it draws, writes, shows and tells a program."""

import json
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.test_projects.test_classification_inference import NAMES, save
from tests.test_projects.test_gradio_demo import load_app, serve, session
from tests.toy_inference import picture, save_toy_model


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('page')
    save(folder / 'classes_shapes')
    save_toy_model(folder / 'masks')
    Image.fromarray(picture(48, 80)).save(folder / 'picture.png')
    return folder


@pytest.fixture(scope='module')
def models(folder):
    given = [str(folder / name) for name in ('classes_shapes', 'masks')]
    return session.Models([*given, str(folder / 'classes_shapes/toy_classifier.py')], device='cpu')


@pytest.fixture(scope='module')
def app():
    pytest.importorskip('gradio', reason='gradio is not installed (projects/gradio_demo/requirements.txt)')
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, 'session', session)
        yield load_app()


def test_the_name_is_drawn_and_written(folder, models, tmp_path):
    predictor = models.get('classes_shapes')
    visit = session.Session(predictor, session.Limits())
    assert visit.predictor is not predictor and visit.predictor.asker is predictor.asker
    answers = visit.ask(str(folder / 'picture.png'), session.CLASSES, ', '.join(NAMES))
    expected = predictor.asker.classifier(folder / 'picture.png', NAMES)[0]
    drawn, rows, message = answers.draw(0.5)
    assert message == '' and drawn.shape[0] > 48 and not np.array_equal(drawn[:48, :80], answers.image)
    assert {row.text: row.probability for row in rows} == pytest.approx(expected.probabilities, abs=1e-5)
    assert {row.text: row.zero_shot for row in rows} == pytest.approx(expected.zero_shot, abs=1e-5)
    assert [NAMES[row.number] for row in rows] == list(expected.probabilities)
    shown, told = answers.write_files(0.5, tmp_path)
    content = json.loads(Path(told).read_text(encoding='utf-8'))
    assert content['name'] == expected.name and content['file_name'] == 'picture.png' and content['trained']
    assert Image.open(shown).size[0] >= 80
    for mode, text, words in (
        (session.SENTENCES, 'a dog', 'ask it with class names'),
        (session.CLASSES, 'dog', 'at least two classes'),
        (session.CLASSES, 'dog, Dog', 'stands for class 0'),
    ):
        with pytest.raises(ValueError, match=words):
            visit.ask(str(folder / 'picture.png'), mode, text)
    # Only the best of many, and without weights CLIP alone.
    visit.use(models.get('toy_classifier'))
    many = [f'thing {number}' for number in range(15)]
    answers = visit.ask(str(folder / 'picture.png'), session.CLASSES, '\n'.join(many))
    _, rows, message = answers.draw(0.5)
    assert len(rows) == 10 and all(row.zero_shot is None for row in rows) and 'this is zero-shot CLIP' in message
    visit.use(models.get('masks'))
    assert visit.ask(str(folder / 'picture.png'), session.SENTENCES, 'a dog').probabilities


def test_nothing_of_masks_is_shown(models, app):
    page, predictor, other = app.Page, models.get('classes_shapes'), models.get('masks')
    assert page._modes(predictor) == dict(choices=[session.CLASSES], value=session.CLASSES)
    assert not page._threshold_of(predictor)['visible'] and not page._boxes_of(predictor)['visible']
    assert not app.takes_clicks(predictor)
    assert page._words_of(predictor)['button'] == 'Classify' and page._words_of(other)['button'] == 'Segment'
    built = page(models, session.Limits())
    assert built._examples('classes_shapes') == [] and not built.note.visible and not built.example.visible
    shown = built._shown_of('masks')
    assert shown[built.button].value == 'Segment' and shown[built.threshold].visible
    shown = built._shown_of('classes_shapes')
    assert shown[built.button].value == 'Classify' and not shown[built.threshold].visible


def test_the_table_has_both_answers(app):
    rows = [session.ClassRow(1, 'a <dog>', 0.93, 0.4), session.ClassRow(0, 'cat', 0.07, 0.6)]
    table = app.show_classes(rows)
    assert 'a &lt;dog&gt;' in table and '93 %' in table and '60 %' in table and 'zero-shot CLIP' in table
    assert table.index('dog') < table.index('cat')
    assert 'zero-shot' not in app.show_classes([row._replace(zero_shot=None) for row in rows])


def upload(address, file):
    """Load a file on the page: its path there."""
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="picture.png"\r\n'
    body += b'Content-Type: image/png\r\n\r\n' + file.read_bytes() + b'\r\n--x--\r\n'
    headers = {'Content-Type': 'multipart/form-data; boundary=x'}
    request = urllib.request.Request(f'{address}gradio_api/upload', data=body, headers=headers)
    return json.loads(urllib.request.urlopen(request, timeout=600).read())[0]


def step(address, visitor, trigger, event, data):
    """What the page's step behind an event of a component answers, by the names of the components, as a browser asks.

    Args:
        address: Of the page.
        visitor: A name for the session.
        trigger: ``elem_id`` of the component.
        event: Its event.
        data: The inputs, by ``elem_id``; the page keeps those that are missing, or has their first values.
    """
    config = json.loads(urllib.request.urlopen(f'{address}config', timeout=600).read())
    names = {one['id']: one['props'].get('elem_id') for one in config['components']}
    values = {one['id']: one['props'].get('value') for one in config['components']}
    (one,) = (
        one
        for one in config['dependencies']
        if one['backend_fn'] and any(names.get(target) == trigger and name == event for target, name in one['targets'])
    )
    inputs = [data.get(names[index], values[index]) for index in one['inputs']]
    body = json.dumps(dict(data=inputs, fn_index=one['id'], session_hash=visitor)).encode()
    request = urllib.request.Request(
        f'{address}gradio_api/queue/join', data=body, headers={'Content-Type': 'application/json'}
    )
    urllib.request.urlopen(request, timeout=600).read()
    with urllib.request.urlopen(f'{address}gradio_api/queue/data?session_hash={visitor}', timeout=600) as answer:
        told = next(json.loads(line.decode()[5:]) for line in answer if b'process_completed' in line)
    assert told['success'], told
    return dict(zip([names[index] for index in one['outputs']], told['output']['data'], strict=True))


@pytest.mark.processes
def test_programs_and_visitors_classify(folder, models):
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    words = ('--model', folder / 'masks', '--model', folder / 'classes_shapes', '--device', 'cpu')
    with serve(folder, *words) as address:
        client = Client(address, verbose=False)
        sent = handle_file(folder / 'picture.png')
        found = client.predict(sent, NAMES, 'classes_shapes', api_name='/classify')
        expected = models.get('classes_shapes').asker.classifier(folder / 'picture.png', NAMES)[0]
        assert found['name'] == expected.name and found['model'] == 'classes_shapes'
        assert found['probabilities'] == pytest.approx(expected.probabilities, abs=1e-4)
        for name, arguments, message in (
            ('/classify', (sent, NAMES), 'does not name the class of a picture'),
            ('/classify', (sent, ['dog'], 'classes_shapes'), 'at least two classes'),
            ('/classes', (sent, NAMES, 'classes_shapes'), 'ask /classify'),
            ('/segment', (sent, ['a dog'], 'classes_shapes'), 'ask /classify'),
        ):
            with pytest.raises(AppError, match=message):
                client.predict(*arguments, api_name=name)
        # A visitor chooses the model, asks, and chooses the other one again.
        shown = step(address, 'visitor', 'model', 'input', dict(model='classes_shapes'))
        assert shown['segment']['value'] == 'Classify' and shown['mode']['choices'] == [['Class names'] * 2]
        assert not any(shown[name]['visible'] for name in ('threshold', 'boxes', 'clicking', 'example', 'note'))
        uploaded = dict(path=upload(address, folder / 'picture.png'), meta=dict(_type='gradio.FileData'))
        asked = dict(picture=uploaded, mode='Class names', text='\n'.join(NAMES), model='classes_shapes')
        shown = step(address, 'visitor', 'segment', 'click', asked)
        first = shown['answers'].index(f'>{expected.name}<')
        assert (
            all(shown['answers'].index(f'>{name}<') >= first for name in NAMES) and 'zero-shot CLIP' in shown['answers']
        )
        assert shown['result']['value']['path'] and '3 class names' in shown['message']
        shown = step(address, 'visitor', 'model', 'input', dict(model='masks'))
        assert shown['segment']['value'] == 'Segment' and shown['threshold']['visible'] and shown['answers'] == ''
        shown = step(
            address, 'visitor', 'segment', 'click', asked | dict(model='masks', mode='Sentences', text='a dog')
        )
        assert 'a dog' in shown['answers'] and '1 sentence' in shown['message']
