"""The console command: what it prints and writes, and that every mistake is one line and exit status 2."""

import json
import os
import warnings

import numpy as np
import pytest
from PIL import Image

from mmetris.cli import DTYPES, mmetris_command, run
from mmetris.utils import autocast
from tests.toy_inference import picture, save_toy_model


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Folder with a toy model's folder ``model``, a picture and a folder of pictures."""
    folder = tmp_path_factory.mktemp('files')
    save_toy_model(folder / 'model')
    (folder / 'pictures').mkdir()
    for index in range(3):
        Image.fromarray(picture(40 + index, 60, index)).save(folder / 'pictures' / f'{index}.png')
    Image.fromarray(picture()).save(folder / 'picture.png')
    return folder


@pytest.fixture
def mmetris(files, monkeypatch, capsys):
    """Run the command in that folder: its exit status, what it printed, and its errors."""
    monkeypatch.chdir(files)

    def call(*arguments, model=('--model', 'model', '--device', 'cpu')):
        with warnings.catch_warnings():
            try:
                run(mmetris_command, [*map(str, arguments), *model])
                status = 0
            except SystemExit as error:
                status = error.code or 0
        return (status, *capsys.readouterr())

    return call


def test_one_picture_is_written_and_boxes_are_printed(mmetris, files, tmp_path):
    file = tmp_path / 'new' / 'x.png'
    status, out, err = mmetris('segment', 'picture.png', 'the left dog', 'a cat', '--out-file', file)
    assert (status, err) == (0, '')
    lines = out.strip().split('\n')
    assert lines[0].startswith('picture.png: the left dog  score 0.') and ', box ' in lines[0]
    assert lines[1].startswith('picture.png: a cat') and lines[2] == f'written: {file}'
    assert np.asarray(Image.open(file)).ndim == 3


def test_a_folder_becomes_masks_pictures_and_json(mmetris, tmp_path):
    status, out, err = mmetris('segment', 'pictures', 'a dog', '--out-dir', tmp_path / 'out', '--threshold', '0.4')
    assert (status, err) == (0, '')
    content = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
    assert [image['file_name'] for image in content['images']] == ['0.png', '1.png', '2.png']
    assert content['info']['threshold'] == 0.4
    assert len(list((tmp_path / 'out').rglob('*.png'))) == len(list((tmp_path / 'out').rglob('*.jpg'))) == 3


def test_the_type_that_the_model_computes_in_can_be_given(mmetris):
    assert DTYPES == autocast.DTYPES
    printed = {}
    for dtype in ('float32', 'bfloat16'):
        status, printed[dtype], err = mmetris('segment', 'picture.png', 'the left dog', '--dtype', dtype)
        assert (status, err) == (0, '')
    # Whole pixels and two digits of the score: the model's own default is float32, and bfloat16 is close to it.
    assert printed['float32'] == mmetris('segment', 'picture.png', 'the left dog')[1]
    scores = [float(line.split('score ')[1].split(',')[0]) for line in printed.values()]
    assert scores[0] == pytest.approx(scores[1], abs=0.05)


def test_class_names_give_each_pixel_a_class(mmetris, files, tmp_path):
    options = ('--threshold', '0.4', '--out-dir', tmp_path / 'out')
    status, out, err = mmetris('segment', 'picture.png', '--classes', 'dog, cat', *options)
    assert (status, err) == (0, '') and out.startswith('picture.png: ') and ' %' in out
    labels = np.asarray(Image.open(tmp_path / 'out' / 'labels' / 'picture.png'))
    assert labels.shape == (48, 80) and set(np.unique(labels)) <= {0, 1, 255}
    (tmp_path / 'names.txt').write_text('dog, hound\ncat\n')
    status, _, err = mmetris(
        'segment', 'picture.png', '--classes', tmp_path / 'names.txt', '--out-file', tmp_path / 'x.png'
    )
    assert (status, err) == (0, '') and (tmp_path / 'x.png').is_file()
    for wrong in (('--classes', 'nothing'), ('a dog', '--classes', 'dog,cat'), ('--classes', 'dog,')):
        status, _, err = mmetris('segment', 'picture.png', *wrong)
        assert status == 2 and err.startswith('error: ') and err.count('\n') == 1


def test_nothing_found_is_said(mmetris):
    status, out, _ = mmetris('segment', 'picture.png', 'a dog', '--threshold', '0.9999')
    assert status == 0 and 'nothing found: no pixel is above 0.9999' in out


def test_warnings_are_one_line_each(mmetris):
    status, out, err = mmetris('segment', 'picture.png', 'собака', 'dog ' * 2500)
    assert status == 0
    first, second = err.strip().split('\n')
    assert first.startswith('warning: the sentence "dog dog') and 'too long' in first and 'not English' in second


def test_an_unreadable_picture_of_a_folder_can_be_left_out(mmetris, files, tmp_path):
    for source in (files / 'pictures').iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    (tmp_path / '1.png').write_text('damaged')
    status, _, err = mmetris('segment', tmp_path, 'a dog')
    assert status == 2 and err.startswith('error: 1.png cannot be read as an image')
    status, out, err = mmetris('segment', tmp_path, 'a dog', '--skip-unreadable')
    assert status == 0 and err.count('\n') == 1 and err.startswith('warning: left out: 1.png') and out.count('\n') == 2


ODD_NAMES = (b'caf\xe9.png', ('\u72d7' * 83).encode() + b'.png', b'x' * 250 + b'.png')


def test_pictures_of_any_name_are_in_the_results(mmetris, files, tmp_path):
    """Bytes that are no UTF-8, and names as long as a file system takes; numbers and endings come on top of those."""
    (tmp_path / 'in').mkdir()
    content = (files / 'picture.png').read_bytes()
    for name in (*ODD_NAMES, b'ok.png'):
        with open(os.path.join(os.fsencode(tmp_path / 'in'), name), 'wb') as file:
            file.write(content)
    status, out, err = mmetris('segment', tmp_path / 'in', 'the caf\udce9', '--out-dir', tmp_path / 'out')
    assert (status, err) == (0, '') and out.count('\n') == 5
    written = json.loads((tmp_path / 'out' / 'predictions.json').read_text(encoding='utf-8'))
    expected = {os.fsdecode(name).replace('\udce9', '\ufffd') for name in (*ODD_NAMES, b'ok.png')}
    assert {image['file_name'] for image in written['images']} == expected
    assert all((tmp_path / 'out' / one['mask_file']).is_file() for one in written['annotations'])
    assert {one['expression'] for one in written['annotations']} == {'the caf\ufffd'}
    names = mmetris('segment', tmp_path / 'in', '--classes', 'caf\udce9,dog', '--out-dir', tmp_path / 'labels')
    assert names[0] == 0 and len(list((tmp_path / 'labels' / 'labels').iterdir())) == 4
    assert json.loads((tmp_path / 'labels' / 'classes.json').read_text(encoding='utf-8')) == ['caf\ufffd', 'dog']


def test_what_was_found_is_kept_when_a_later_picture_stops_the_run(mmetris, files, tmp_path):
    for name in ('0.png', '1.png'):
        (tmp_path / name).write_bytes((files / 'pictures' / name).read_bytes())
    (tmp_path / '2.png').write_text('damaged')
    for option, file in (('a dog', 'predictions.json'), ('--classes=dog,cat', 'classes.json')):
        out = tmp_path / file
        status, _, err = mmetris('segment', tmp_path, option, '--out-dir', out, '--batch-size', '1')
        assert status == 2 and err.startswith('error: 2.png cannot be read')
        content = json.loads((out / file).read_text())
        assert file == 'classes.json' or [image['file_name'] for image in content['images']] == ['0.png', '1.png']
        (out / file).write_text('of an earlier run')  # It stays where nothing new was found.
        assert mmetris('segment', tmp_path / '2.png', option, '--out-dir', out, '--overwrite')[0] == 2
        assert (out / file).read_text() == 'of an earlier run'


def test_nothing_that_is_there_is_replaced_unasked(mmetris, files, tmp_path):
    """The photograph itself, another file, the results of an earlier run; the model is not even loaded."""
    photo, out = tmp_path / 'photo.png', tmp_path / 'out'
    content = (files / 'picture.png').read_bytes()
    photo.write_bytes(content)
    assert mmetris('segment', photo, 'a dog', '--out-dir', out)[0] == 0
    no_model = ('--model', 'none')
    for option, file, words in (
        ('--out-file', photo, 'photo.png is there already'),
        ('--out-file', out / 'masks' / 'photo_1.png', 'photo_1.png is there already'),
        ('--out-dir', out, 'out has results already'),
    ):
        status, _, err = mmetris('segment', photo, 'a dog', option, file, model=no_model)
        assert status == 2 and words in err and '--overwrite' in err and photo.read_bytes() == content
    status, _, err = mmetris('video', photo, 'a dog', '--out-file', tmp_path / 'x.avi', model=no_model)
    assert 'x.avi' not in err
    (tmp_path / 'x.avi').write_text('mine')
    status, _, err = mmetris('video', photo, 'a dog', '--out-file', tmp_path / 'x.avi', model=no_model)
    assert status == 2 and 'x.avi is there already' in err and (tmp_path / 'x.avi').read_text() == 'mine'
    assert mmetris('segment', photo, 'a dog', '--out-dir', out, '--out-file', photo, '--overwrite')[0] == 0
    assert photo.read_bytes() != content


def test_a_video_may_have_any_name(mmetris, files, tmp_path):
    cv2 = pytest.importorskip('cv2')
    plain, odd = tmp_path / 'in.avi', tmp_path / 'caf\udce9.avi'
    video = cv2.VideoWriter(str(plain), cv2.VideoWriter.fourcc(*'MJPG'), 10, (80, 48))
    for _ in range(3):
        video.write(np.ascontiguousarray(picture()[..., ::-1]))
    video.release()
    plain.rename(odd)
    out_file = tmp_path / 'out\udce9.avi'
    status, out, err = mmetris('video', odd, 'a dog', '--out-file', out_file)
    assert (status, err) == (0, '') and '3 frames' in out and out_file.stat().st_size > 1000
    assert {path.name for path in tmp_path.iterdir()} == {odd.name, out_file.name}


@pytest.mark.parametrize(('classes', 'status'), [('dog', 2), ('dog,', 2), ('dog,cat,', 0), ('dog,,cat', 2)])
def test_class_names_are_at_least_two_and_none_is_empty(mmetris, classes, status):
    found, _, err = mmetris('segment', 'picture.png', '--classes', classes)
    assert found == status
    assert status == 0 or 'at least two classes' in err or 'empty name' in err


@pytest.mark.parametrize(
    'arguments, words',
    [
        (('segment', 'picture.png'), 'no sentence given'),
        (('segment', 'picture.png', ' '), 'sentence 1 is empty'),
        (('segment', 'none.png', 'a dog'), 'image not found: none.png'),
        (('segment', 'model/toy_vit.py', 'a dog'), 'toy_vit.py cannot be read as an image'),
        (('segment', 'model', 'a dog'), 'no images in model'),
        (('segment', 'pictures', 'a dog', '--out-file', 'x.png'), 'pictures is a folder: give --out-dir'),
        (('segment', 'picture.png', 'a dog', '--out-file', 'x.xyz'), 'x.xyz needs the ending'),
        (('segment', 'picture.png', 'a dog', '--out-dir', 'picture.png'), 'picture.png'),
        (('segment', 'picture.png', 'a dog', '--threshold', '35'), 'between 0 and 1'),
        (('segment', 'picture.png', 'a dog', '--dtype', 'half'), 'bfloat16'),
        (('segment', 'picture.png', 'a dog', '--dtype', 'float16'), 'float16 is for GPUs'),
        (('segment', 'picture.png', 'a dog', '--max-pixels', '100'), 'too large: 80 x 48'),
        (('segment', 'picture.png', 'a dog', '--batch-size', '0'), 'batch-size'),
        (('segment', 'picture.png', 'a dog', '--weights', 'none.pth'), 'missing: none.pth'),
        (('segment', 'picture.png', 'a dog', '--weights', 'picture.png'), 'picture.png cannot be read as a checkpoint'),
        (('segment', 'picture.png', 'a dog', '--colour', 'red'), '--colour'),
        (('segment',), 'IMAGE'),
        (('video', 'none.mp4', 'a dog', '--out-file', 'x.mp4'), 'video not found: none.mp4'),
        (('video', 'picture.png.txt', 'a dog'), '--out-file'),
        (('video', 'none.mp4', 'a dog', '--out-file', 'x.txt'), 'write a video as .mp4'),
        (('video', 'none.mp4', '--out-file', 'x.mp4'), 'no sentence given'),
        (('paint',), 'paint'),
    ],
)
def test_a_mistake_is_one_line_and_status_2(mmetris, arguments, words):
    status, out, err = mmetris(*arguments)
    assert status == 2 and words in err
    assert err.startswith('error: ') and err.count('\n') == 1 and 'Traceback' not in out + err


def test_a_model_by_a_wrong_name_or_without_weights(mmetris):
    for model, words in (
        ('etris_r101_refcoc', 'did you mean etris_r101_refcoco'),
        ('etris_r101_refcoco', 'no weights'),
        ('pictures', 'has no config'),
    ):
        status, _, err = mmetris('segment', 'picture.png', 'a dog', model=('--model', model))
        assert status == 2 and words in err and err.count('\n') == 1


def test_any_other_failure_is_one_line_too_and_a_traceback_on_request(mmetris, monkeypatch):
    from mmetris.apis import RefSegInferencer

    def fail(*args, **kwargs):
        raise RuntimeError('out of\nmemory')

    monkeypatch.setattr(RefSegInferencer, 'visualize', fail)
    status, out, err = mmetris('segment', 'picture.png', 'a dog', '--out-file', 'x.png')
    assert (status, err) == (2, 'error: out of memory\n')
    monkeypatch.setenv('MMETRIS_TRACEBACK', '1')
    with pytest.raises(RuntimeError, match='out of'):
        mmetris('segment', 'picture.png', 'a dog', '--out-file', 'x.png')


@pytest.mark.parametrize(
    'words', [(), ('segment',), ('video',), ('models',), ('data',), ('data', 'check'), ('data', 'import')]
)
def test_help_has_examples_and_status_0(mmetris, words):
    status, out, _ = mmetris(*words, '--help', model=())
    assert status == 0 and out.startswith('Usage:')
    assert words == ('models',) or 'Examples:' in out


def test_models_are_listed_with_what_they_need(mmetris):
    status, out, _ = mmetris('models', model=())
    lines = dict(line.split(maxsplit=1) for line in out.strip().split('\n'))
    assert status == 0 and lines['etris_r101_refcoco'] == 'no weights: train it'
    assert 'etris_tiny_long-192px_shapes' in lines
