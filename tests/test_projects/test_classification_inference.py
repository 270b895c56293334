"""Models that classify in Python, shell and where masks are asked for."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmetris.apis import ImageClassificationInferencer, RefSegInferencer, RefSegPredictor
from mmetris.apis.asking import Asker
from mmetris.apis.model_zoo import find_model
from mmetris.structures import Vocabulary
from tests.test_projects.test_classification import build, model_cfg, stirred
from tests.toy_command import ask_command
from tests.toy_inference import picture, save_toy_model

ROOT = Path(__file__).parents[2]
NAMES = ['red circle', 'blue square', 'a dog']
TRAINED = ('a left cat', 'a dog', 'blue square', 'red star')


def save(folder, classes=TRAINED, **model):
    """Config and checkpoint of a toy classifier, as a training's folder has them."""
    folder.mkdir(parents=True)
    steps = [dict(type='LoadImageFromFile'), dict(type='Letterbox', size=64), dict(type='PackInputs')]
    imports = dict(imports=['mmetris.registry', 'projects.classification.classification'])
    model = dict(dict(classes=None), **model)
    cfg = dict(
        default_scope='mmetris',
        custom_imports=imports,
        model=model_cfg(**model),
        test_dataloader=dict(dataset=dict(type='ClassFolderDataset', data_root='x', pipeline=steps)),
    )
    Config(cfg).dump(folder / 'toy_classifier.py')
    content = dict(state_dict=stirred(build(**model)).state_dict(), meta=dict(dataset_meta=dict(classes=classes)))
    torch.save(content, folder / 'best_accuracy_top1_epoch_1.pth')
    return folder


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('classes')
    save(folder / 'model')
    save(folder / 'no_clip', with_zero_shot=False)
    save_toy_model(folder / 'masks')
    (folder / 'pictures').mkdir()
    for seed in range(3):
        Image.fromarray(picture(seed=seed)).save(folder / 'pictures' / f'{seed}.png')
    return folder


@pytest.fixture(scope='module')
def classifier(folder):
    return ImageClassificationInferencer(folder / 'model', device='cpu')


@pytest.fixture
def mmetris(folder, monkeypatch, capsys):
    """Run the command in that folder: its exit status, what it printed, and its errors."""
    monkeypatch.chdir(folder)
    return lambda *arguments: ask_command(capsys, *arguments, '--device', 'cpu')


def test_answers_are_those_of_the_model(classifier, folder):
    found = classifier(folder / 'pictures', NAMES, batch_size=2)
    assert [(one.index, one.image) for one in found] == [(0, '0.png'), (1, '1.png'), (2, '2.png')]
    steps = classifier._pipeline
    for seed, one in enumerate(found):
        pixels = np.ascontiguousarray(picture(seed=seed)[..., ::-1])
        packed = steps(dict(img=pixels, img_path='x', img_shape=(48, 80), ori_shape=(48, 80)))
        inputs = classifier.model.data_preprocessor(
            dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']])
        )
        with torch.no_grad():
            sample = classifier.model.predict(inputs['inputs'])[0]
        expected = dict(zip(NAMES, sample.pred_score.tolist()))
        assert one.probabilities == pytest.approx(expected, abs=1e-5)
        assert one.zero_shot == pytest.approx(dict(zip(NAMES, sample.zero_shot_logits.softmax(0).tolist())), abs=1e-5)
        assert one.name == max(expected, key=expected.get) == next(iter(one.probabilities))
        assert sorted(one.probabilities.values(), reverse=True) == list(one.probabilities.values())
    # Of an array, and of those names that it was trained on.
    assert classifier.trained_classes == TRAINED
    assert set(classifier(picture())[0].probabilities) == set(TRAINED)
    assert set(classifier(picture(), Vocabulary.build(NAMES))[0].probabilities) == set(NAMES)


def test_without_weights_it_is_zero_shot_clip(folder, classifier):
    config = folder / 'model' / 'toy_classifier.py'
    one = ImageClassificationInferencer(config, device='cpu')
    assert not one.is_trained and one.trained_classes == ()
    found = one(picture(), NAMES)[0]
    assert found.probabilities == found.zero_shot and found.name == next(iter(found.zero_shot))
    with pytest.raises(ValueError, match='names of the classes are needed'):
        one(picture())
    with pytest.raises(ValueError, match='a checkpoint is needed'):
        ImageClassificationInferencer(folder / 'no_clip' / 'toy_classifier.py', device='cpu')
    assert ImageClassificationInferencer(folder / 'no_clip', device='cpu')(picture(), NAMES)[0].zero_shot is None


def test_what_makes_no_sense_is_said(folder, classifier):
    with pytest.raises(ValueError, match='at least two classes'):
        classifier(picture(), ['dog'])
    with pytest.raises(ValueError, match='batch_size must be a positive number'):
        classifier(picture(), NAMES, batch_size=0)
    with pytest.raises(ValueError, match='the vocabulary has its own'):
        classifier(picture(), Vocabulary.build(NAMES), templates=['the {}'])
    with pytest.raises(ValueError, match='no image given'):
        classifier([], NAMES)
    with pytest.raises(FileNotFoundError, match='image not found'):
        classifier(folder / 'x.png', NAMES)


@pytest.mark.parametrize('ask', [RefSegInferencer, RefSegPredictor])
@pytest.mark.parametrize('model', ['model', 'model/toy_classifier.py'])
def test_who_asks_for_masks_is_told_what_asks_for_classes(folder, ask, model):
    with pytest.raises(ValueError, match='segments nothing.*"mmetris classify".*ImageClassificationInferencer'):
        ask(folder / model, device='cpu')


def test_an_asker_of_sentences_refuses_it(classifier):
    with pytest.raises(ValueError, match='BridgedClassifier names the class of a picture and segments nothing'):
        Asker(classifier.model, Config(dict(input_size=(64, 64))))


def test_either_kind_is_found_where_none_is_named(folder):
    assert find_model(folder / 'model').weights and find_model(folder / 'masks').weights
    assert find_model(folder / 'model' / 'toy_classifier.py').weights is None
    with pytest.raises(FileNotFoundError, match='no weights'):
        find_model(folder / 'masks' / 'toy_vit.py')


def test_the_shell_prints_and_gives_json(mmetris, classifier, folder):
    expected = classifier(folder / 'pictures', NAMES)
    status, out, err = mmetris('classify', 'pictures', '--names', ';'.join(NAMES), '--model', 'model', '--top', '1')
    assert (status, err) == (0, '')
    for line, one in zip(out.splitlines(), expected, strict=True):
        first = next(iter(one.zero_shot.items()))
        best = f'{one.image}: {one.name} {100 * one.probabilities[one.name]:.0f} %'
        assert line == f'{best}; zero-shot CLIP: {first[0]} {100 * first[1]:.0f} %'
    # Commas do where there are no semicolons; files and folders.
    words = ('pictures/0.png', 'pictures/', '--names', ', '.join(NAMES), '--model', 'model', '--json', '--top', '1')
    status, out, _ = mmetris('classify', *words)
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and [one['file_name'] for one in lines] == ['0.png', '0.png', '1.png', '2.png']
    assert lines[0]['probabilities'] == pytest.approx(expected[0].probabilities, abs=1e-5)
    assert lines[0]['zero_shot'] == pytest.approx(expected[0].zero_shot, abs=1e-5)
    assert (lines[0]['name'], lines[0]['trained']) == (expected[0].name, True)


def test_the_shells_names(mmetris, folder, tmp_path):
    def classes(*words, model='model'):
        status, out, err = mmetris('classify', 'pictures/0.png', *words, '--model', model, '--json')
        assert status == 0, err
        return list(json.loads(out)['probabilities']), err

    assert set(classes('--names', 'sofa, couch; dog;')[0]) == {'sofa', 'dog'}
    (tmp_path / 'names.txt').write_text('sofa, couch\ndog\ncat\n')
    assert set(classes('--names', tmp_path / 'names.txt')[0]) == {'sofa', 'dog', 'cat'}
    assert set(classes()[0]) == set(TRAINED)
    # A template changes what is asked.
    plain, other = (
        mmetris('classify', 'pictures/0.png', '--names', 'dog;cat', '--model', 'model', '--json', *more)[1]
        for more in ((), ('--template', 'a photo of a {}.', '--template', 'the {}'))
    )
    assert json.loads(plain)['zero_shot'] != json.loads(other)['zero_shot']
    found, err = classes('--names', 'dog;cat', model='model/toy_classifier.py')
    assert set(found) == {'dog', 'cat'} and err == 'no weights are given: this is zero-shot CLIP\n'


def test_the_shells_mistakes_are_one_line(mmetris, folder, tmp_path):
    names = ('--names', 'dog;cat')
    for words, message in (
        (('pictures/0.png', '--names', 'dog', '--model', 'model'), 'neither a text file nor a data set'),
        (('pictures/0.png', '--names', 'dog;', '--model', 'model'), 'at least two classes'),
        (('pictures/0.png', '--model', 'model/toy_classifier.py'), 'names of the classes are needed (--names'),
        (('x.png', *names, '--model', 'model'), 'image not found: x.png'),
        (('x/', *names, '--model', 'model'), 'folder not found: x/'),
        (('pictures/0.png', *names), "Missing option '--model'"),
        (('pictures/0.png', *names, '--model', 'masks'), 'masks does not classify pictures: models of projects/class'),
        (('pictures/0.png', *names, '--model', 'masks/toy_vit.py'), 'does not classify pictures'),
        (('pictures/0.png', *names, '--model', 'model', '--top', '0'), '--top'),
        (('pictures/0.png', *names, '--model', 'model', '--template', 'a photo'), 'a photo'),
        (('pictures/0.png', *names, '--model', 'model', '--max-pixels', '100'), 'pixels'),
    ):
        status, out, err = mmetris('classify', *words)
        assert (status, out) == (2, '') and err.splitlines()[-1].startswith('error: ') and message in err, (words, err)
    status, _, err = mmetris('segment', 'pictures/0.png', 'the dog', '--model', 'model')
    assert status == 2 and 'segments nothing: it is for "mmetris classify"' in err and err.count('\n') == 1


def test_the_shell_leaves_out_what_it_cannot_read(mmetris, folder, tmp_path):
    (tmp_path / 'bad.png').write_bytes(b'no picture')
    words = ('--names', 'dog;cat', '--model', 'model')
    status, out, err = mmetris('classify', tmp_path / 'bad.png', 'pictures/1.png', *words)
    assert status == 2 and 'bad.png' in err and err.startswith('error: ')
    status, out, err = mmetris('classify', tmp_path / 'bad.png', 'pictures/1.png', *words, '--skip-unreadable')
    assert status == 0 and out.startswith('1.png: ') and 'warning: left out: ' in err
    status, _, err = mmetris('classify', tmp_path / 'bad.png', *words, '--skip-unreadable')
    assert status == 2 and 'the image cannot be read' in err


def test_the_shell_finds_the_project_from_any_folder(folder, tmp_path):
    """The shipped config, whose code stands in the checkout, from a folder beside it: zero-shot tiny CLIP."""
    config = ROOT / 'projects/classification/configs/bridged_tiny_shapes-classes.py'
    words = [folder / 'pictures/0.png', '--names', 'red circle;blue square', '--model', config, '--device', 'cpu']
    code = f'import sys; sys.path.insert(0, {str(ROOT)!r}); from mmetris.cli import main; main()'
    ended = subprocess.run(
        [sys.executable, '-P', '-c', code, 'classify', *map(str, words)], cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith('0.png: ') and 'blue square' in ended.stdout
    assert ended.stderr == 'no weights are given: this is zero-shot CLIP\n'
