"""The console command: what it prints and writes, and that every mistake is one line and exit status 2."""

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.shell_completion import shell_complete
from PIL import Image

from mmetris import cli, package
from mmetris.apis import RefSegInferencer
from mmetris.cli import DTYPES, mmetris_command, run
from mmetris.datasets.shapes import draw_sample, render
from mmetris.utils import autocast, image_io
from tests.toy_command import ask_command
from tests.toy_inference import ROOT, picture, save_toy_model


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
            return ask_command(capsys, *arguments, *model)

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
    for wrong, words in (
        (('--classes', 'names.txt'), 'neither a text file nor a data set'),
        (('--classes', 'cityscape'), 'did you mean cityscapes'),
        (('a dog', '--classes', 'dog,cat'), 'not both'),
        (('--classes', ','), 'empty name'),
    ):
        status, _, err = mmetris('segment', 'picture.png', *wrong)
        assert status == 2 and err.startswith('error: ') and words in err and err.count('\n') == 1


@pytest.mark.parametrize(
    ('content', 'names'), [(b'\xef\xbb\xbfdog\r\n\r\ncat,\r\n', ['dog', 'cat']), (b'dog, hound,\n\n', ['dog'])]
)
def test_a_file_of_classes_as_editors_write_them(mmetris, tmp_path, content, names):
    (tmp_path / 'a, b.txt').write_bytes(content)
    options = ('--classes', tmp_path / 'a, b.txt', '--out-dir', tmp_path / 'out')
    assert mmetris('segment', 'picture.png', *options)[0] == 0
    assert json.loads((tmp_path / 'out' / 'classes.json').read_text()) == names


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


@pytest.mark.parametrize(('classes', 'status'), [('dog', 0), ('dog,', 0), ('dog,cat,', 0), ('dog,,cat', 2)])
def test_one_class_name_is_enough_and_none_is_empty(mmetris, classes, status):
    found, out, err = mmetris('segment', 'picture.png', '--classes', classes)
    assert found == status and ('dog' in out if status == 0 else 'empty name' in err)


@pytest.mark.parametrize(
    'arguments, words',
    [
        (('segment', 'picture.png'), 'no sentence given'),
        (('segment', 'picture.png', ' '), 'sentence 1 is empty'),
        (('segment', 'none.png', 'a dog'), 'image not found: none.png'),
        (('segment', 'model/toy_vit.py', 'a dog'), 'toy_vit.py cannot be read as an image'),
        (('segment', 'model', 'a dog'), 'no images in model'),
        (('segment', 'none/', 'a dog', '--skip-unreadable'), 'folder not found: none/'),
        (('segment', 'pictures', 'none.png', 'a dog', '--skip-unreadable'), 'image not found: none.png'),
        (('segment', 'picture.png', 'a dog', 'pictures/0.png'), 'pictures/0.png stands behind a sentence'),
        (('segment', 'picture.png', 'pictures/0.png', 'a dog', '--out-file', 'x.png'), 'for one picture, and 2 are'),
        (('segment', 'picture.png', 'pictures/0.png'), 'no sentence given'),
        (('segment', 'pictures', 'a dog', '--out-file', 'x.png'), 'pictures is a folder: give --out-dir'),
        (('segment', 'picture.png', 'a dog', '--out-file', 'x.xyz'), 'x.xyz needs the ending'),
        (('segment', 'picture.png', 'a dog', '--out-dir', 'picture.png'), 'picture.png is a file, not a folder'),
        (('segment', 'picture.png', 'a dog', '--out-dir', 'picture.png/x', '--overwrite'), 'picture.png is a file,'),
        (('segment', 'picture.png', 'a dog', '--out-file', 'pictures', '--overwrite'), 'written: it is a folder'),
        (('segment', 'picture.png', 'a dog', '--out-dir', ''), "'--out-dir': the name is empty"),
        (('segment', 'picture.png', '--classes', ''), "'--classes': the name is empty"),
        (('video', 'none.mp4', 'other.MP4', 'a dog', '--out-file', 'x.mp4'), 'one video at a time: other.MP4'),
        (('video', 'none.mp4', 'a dog', 'picture.png', '--out-file', 'x.mp4'), 'one video at a time: picture.png'),
        (('video', 'none.mp4', 'a dog', '--out-file', 'picture.png/x.mp4'), 'picture.png is a file, not a folder'),
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
        (('video', 'picture.png.txt', 'a dog'), 'give --out-file for a video, or --out-dir'),
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


def test_several_pictures_stand_before_the_sentences(mmetris):
    """The second one used to become a sentence; a word that happens to be a folder's name still is one."""
    status, out, err = mmetris('segment', 'picture.png', 'pictures/0.png', 'pictures/', 'a dog', 'pictures')
    assert status == 0
    assert err == 'warning: pictures is taken for a sentence, and is the name of a folder: pictures/ means it\n'
    asked = [line.split('  ')[0].strip() for line in out.strip().split('\n')]
    names = ('picture.png', '0.png', '0.png', '1.png', '2.png')
    assert asked == [f'{name}: {text}' for name in names for text in ('a dog', 'pictures')]
    status, out, err = mmetris('segment', 'picture.png', './pictures', 'a dog')
    assert (status, err) == (0, '') and out.count('a dog') == 4
    status, out, err = mmetris('segment', 'picture.png', 'pictures/1.png', '--classes', 'dog')
    assert (status, err) == (0, '') and [line.split(':')[0] for line in out.split('\n')[:2]] == ['picture.png', '1.png']
    assert cli.IMAGE_SUFFIXES == image_io.IMAGE_SUFFIXES


def test_where_every_picture_is_left_out_nothing_is_said_to_be_written(mmetris, tmp_path):
    (tmp_path / 'a.png').write_text('damaged')
    for option in ('a dog', '--classes=dog,cat'):
        options = ('--skip-unreadable', '--out-dir', tmp_path / 'out')
        status, out, err = mmetris('segment', tmp_path / 'a.png', option, *options)
        assert (status, out) == (2, '') and err.strip().split('\n')[-1] == 'error: the image cannot be read'
        assert not list(tmp_path.rglob('predictions.json'))


def test_json_is_alone_on_the_standard_output(mmetris, tmp_path):
    out_dir = tmp_path / 'out'
    status, out, err = mmetris('segment', 'pictures', 'a dog', 'a cat', '--json', '--out-dir', out_dir)
    assert status == 0 and err.startswith('written: ')
    lines = [json.loads(line) for line in out.strip().split('\n')]
    written = json.loads((out_dir / 'predictions.json').read_text())
    assert [line['file_name'] for line in lines] == [image['file_name'] for image in written['images']]
    assert (lines[0]['height'], lines[0]['width']) == (40, 60) and 'note' not in lines[0]
    keys = ('expression', 'score', 'bbox', 'area', 'segmentation')
    printed = [{key: answer[key] for key in keys} for line in lines for answer in line['annotations']]
    assert printed == [{key: answer[key] for key in keys} for answer in written['annotations']]
    status, out, err = mmetris('segment', 'picture.png', '--classes', 'dog,cat', '--json')
    assert (status, err) == (0, '') and set(json.loads(out)['shares']) == {'dog', 'cat'}


def test_the_progress_bar_keeps_out_of_the_results(mmetris, monkeypatch):
    plain = mmetris('segment', 'pictures', 'a dog')
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    monkeypatch.setenv('TERM', 'xterm')
    status, out, err = mmetris('segment', 'pictures', 'a dog')
    assert (status, out) == plain[:2] and plain[2] == '' and 'Inference' in err
    status, out, err = mmetris('segment', 'pictures', 'a dog', '--no-progress')
    assert (status, out, err) == plain


def test_a_tilde_is_the_home_folder_wherever_a_file_is_named(mmetris, files, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(files))
    monkeypatch.chdir(tmp_path)
    (files / 'names.txt').write_text('dog\ncat')
    model = ('--model=~/model', '--device=cpu', '--weights=~/model/best_mIoU_epoch_2.pth')
    for options in (('a dog', '--out-file=~/tilde/x.png'), ('--classes=~/names.txt', '--out-dir=~/tilde/out')):
        assert mmetris('segment', '~/picture.png', *options, model=model)[0] == 0
    assert {path.name for path in (files / 'tilde').iterdir()} == {'x.png', 'out'} and not list(tmp_path.iterdir())


COMMANDS = ['classify', 'data', 'demo', 'download', 'export', 'models', 'push', 'segment', 'test', 'train', 'video']


def test_help_lists_all_commands_and_imports_nothing_heavy():
    """In a process of its own: this one has imported everything."""
    code = """if True:
        import sys
        from mmetris.cli import mmetris_command, run
        try:
            run(mmetris_command, ['--help'])
        except SystemExit:
            pass
        print(*({'torch', 'mmengine', 'mmcv', 'mmseg', 'numpy', 'cv2', 'PIL', 'rich'} & set(sys.modules)))"""
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, text=True, capture_output=True, check=True)
    listed, _, imported = done.stdout.partition('Commands:\n')[2].rpartition('\n')[0].rpartition('\n')
    assert [line.split()[0] for line in listed.split('\n')] == COMMANDS and imported == ''


def test_without_a_command_the_help_is_printed(mmetris):
    status, out, err = mmetris(model=())
    assert (status, err) == (0, '') and out == mmetris('--help', model=())[1] and out.startswith('Usage:')
    assert mmetris('data', model=()) == mmetris('data', '--help', model=())


@pytest.mark.parametrize(
    ('command', 'script'),
    [
        ('train', 'tools/train.py'),
        ('test', 'tools/test.py'),
        ('export', 'tools/deployment/export.py'),
        ('demo', 'projects/gradio_demo/app.py'),
    ],
)
def test_scripts_get_the_words_of_their_command_as_they_are(mmetris, monkeypatch, command, script):
    started = []
    monkeypatch.setattr(os, 'execve', lambda file, words, env: started.append((file, words, env)))
    words = ['my.py', '--cfg-options', 'a=1', 'b=[2]', '--', '-h', '--help', '~', 'my.py']
    mmetris(command, *words, model=())
    ((file, (python, path, *given), env),) = started
    assert file == python == sys.executable and Path(path) == ROOT / script and Path(path).is_file()
    assert given == words and env['PYTHONPATH'].split(os.pathsep)[0] == str(ROOT)


def test_a_script_that_is_not_there_is_told_in_one_line(mmetris, monkeypatch, tmp_path):
    monkeypatch.setattr(package, 'PACKAGE', tmp_path / 'mmetris')
    monkeypatch.setattr(os, 'execve', lambda *_: pytest.fail('started'))
    status, out, err = mmetris('train', 'my.py', model=())
    assert (
        (status, out) == (2, '') and err.startswith('error: tools/train.py is neither beside') and err.count('\n') == 1
    )


@pytest.fixture
def interrupts():
    """What Ctrl-C does is put back as it was."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interruption_is_one_word_and_keeps_what_was_found(mmetris, monkeypatch, tmp_path, interrupts):
    def stream(*args, **kwargs):
        yield from (one for one, _ in zip(whole(*args, **kwargs), range(2)))
        signal.raise_signal(signal.SIGINT)

    whole = RefSegInferencer.stream
    monkeypatch.setattr(RefSegInferencer, 'stream', stream)
    status, out, err = mmetris('segment', 'pictures', 'a dog', '--out-dir', tmp_path)
    assert status == 130 and err.strip() == 'stopped' and out.count('\n') == 2
    assert len(json.loads((tmp_path / 'predictions.json').read_text())['images']) == 2


def test_an_interruption_of_the_first_imports_is_no_traceback(tmp_path):
    """The command, by its script's name, interrupted while it imports click."""
    (tmp_path / 'click.py').write_text('print("importing", flush=True)\nimport time\ntime.sleep(60)\n')
    script = tmp_path / 'mmetris'
    script.write_text('import sys\nfrom mmetris.cli import main\nsys.exit(main())\n')
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    with subprocess.Popen(
        [sys.executable, str(script), 'models'], env=dict(os.environ, PYTHONPATH=path), stdout=-1, stderr=-1, text=True
    ) as process:
        assert process.stdout.readline() == 'importing\n'
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=600)
    assert process.returncode == -signal.SIGINT and errors == ''


def test_an_interruption_of_the_imports_ends_the_process_there(monkeypatch, interrupts, capfd):
    class Ended(BaseException):
        pass

    def end(status):
        raise Ended(status)

    monkeypatch.setattr(os, '_exit', end)
    monkeypatch.setattr(cli, '_Apis', lambda: signal.raise_signal(signal.SIGINT))
    with warnings.catch_warnings(), pytest.raises(Ended, match='130'):
        run(mmetris_command, ['models'])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # A job in the background.
    monkeypatch.setattr(cli, '_Apis', lambda: signal.raise_signal(signal.SIGINT) or 'loaded')
    assert cli._load_apis() == 'loaded' and capfd.readouterr().err.strip() == 'stopped'


@pytest.mark.parametrize(
    ('words', 'cursor', 'expected'),
    [
        ('mmetris d', 1, 'plain,demo'),
        ('mmetris data ', 2, 'plain,check'),
        ('mmetris segment ph', 2, 'file,ph'),
        ('mmetris segment a.png --out-file x', 4, 'file,x'),
        ('mmetris segment a.png --dt', 3, 'plain,--dtype'),
        ('mmetris train con', 2, 'file,con'),
    ],
)
def test_the_shell_completes_commands_options_and_files(monkeypatch, capsys, words, cursor, expected):
    monkeypatch.setenv('COMP_WORDS', words)
    monkeypatch.setenv('COMP_CWORD', str(cursor))
    assert shell_complete(mmetris_command, {}, 'mmetris', '_MMETRIS_COMPLETE', 'bash_complete') == 0
    assert expected in capsys.readouterr().out.split('\n')


def test_without_a_model_the_first_line_says_what_the_shipped_one_knows(mmetris, tmp_path, monkeypatch):
    Image.fromarray(render(draw_sample(7, 'testA', 0)[0])[0]).save(tmp_path / 'drawn.png')
    Image.fromarray(picture(90, 120)).save(tmp_path / 'other.png')
    Image.fromarray(picture(90, 120)).save(tmp_path / 'photo.png')
    options = ('--out-dir', tmp_path / 'out', '--json')
    status, out, err = mmetris('segment', tmp_path, 'the red circle', *options, model=('--device', 'cpu'))
    first, second, *rest = err.split('\n')
    assert status == 0 and first.startswith('warning: the model that ships with mmetris knows drawn shapes only')
    assert second.startswith('warning: other.png is unlike the drawn pictures') and rest[0].startswith('written')
    written = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
    notes = [image['note'] for image in written['images']]
    assert notes == [json.loads(line)['note'] for line in out.strip().split('\n')]
    assert notes[0] == written['info']['note'] == first.removeprefix('warning: ')
    assert all(f'{name}.png is unlike' in note for name, note in zip(('other', 'photo'), notes[1:], strict=True))
    status, out, err = mmetris('segment', tmp_path / 'other.png', '--classes', 'circle', '--json', model=())
    assert status == 0 and 'mean nothing' in json.loads(out)['note'] and err.split('\n')[0] == first
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)  # With the progress bar around it.
    assert 'other.png is unlike' in mmetris('segment', tmp_path, 'a ring', model=())[2]
