"""segment_video: the video, the files of its frames, and what is left when it is stopped."""

import functools
import json
import os
import signal
import sys
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from mmetris import cli
from mmetris.apis import RefSegPredictor, VideoReport, segment_video
from mmetris.utils.video_io import CONTAINERS
from tests.toy_command import ask_command
from tests.toy_inference import save_toy_model
from tests.toy_videos import told, write_video


@pytest.fixture(scope='module')
def predictor(tmp_path_factory):
    folder = tmp_path_factory.mktemp('model')
    save_toy_model(folder / 'model')
    return RefSegPredictor(folder / 'model', device='cpu')


@pytest.fixture
def clip(tmp_path):
    return write_video(tmp_path / 'clip.mp4', Fraction(120000, 1001), sound='aac')


@pytest.fixture
def mmetris(predictor, monkeypatch, capsys):
    """``mmetris video`` with the model that is there: its exit status, what it printed, and its errors."""
    monkeypatch.setattr('mmetris.apis.RefSegPredictor', lambda **_: predictor)
    return functools.partial(ask_command, capsys, 'video')


def test_the_video_has_all_frames_their_rate_and_the_sound(predictor, clip, tmp_path):
    report = segment_video(predictor, clip, ['the left dog', 'a cat'], tmp_path / 'new' / 'out.mp4', every=3)
    assert report == VideoReport(8, 3, False)
    found = told(tmp_path / 'new' / 'out.mp4')
    assert found['codec'] == 'h264' and found['rate'] == Fraction(120000, 1001) and found['sounds'] == ['aac']
    assert len(found['pixels']) == 8 and found['pixels'][0].shape[1] == 480
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['out.mp4']


def test_numbers_below_one_and_nothing_to_write_are_refused(predictor, clip, tmp_path):
    for options, message in (
        (dict(every=0), 'every must be 1 at least, but is 0'),
        (dict(max_frames=0), 'max_frames must be 1 at least, but is 0'),
        (dict(out_file=None), 'give out_file for a video, or out_dir for the frames'),
    ):
        with pytest.raises(ValueError, match=message):
            segment_video(predictor, clip, 'a dog', **dict(dict(out_file=tmp_path / 'x.mp4'), **options))
    assert [path.name for path in tmp_path.iterdir()] == ['clip.mp4']


def test_frames_are_written_as_pictures_are(predictor, clip, tmp_path):
    report = segment_video(predictor, clip, 'a dog', out_dir=tmp_path / 'out', every=2, max_frames=5)
    assert report == VideoReport(5, 3, False)
    written = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
    assert [image['file_name'] for image in written['images']] == ['clip_000000', 'clip_000002', 'clip_000004']
    assert [image['frame'] for image in written['images']] == [0, 2, 4]
    assert [image['time'] for image in written['images']] == pytest.approx([0, 2 * 1001 / 120000, 4 * 1001 / 120000])
    assert len(written['annotations']) == 3
    for image, annotation in zip(written['images'], written['annotations']):
        mask = np.asarray(Image.open(tmp_path / 'out' / annotation['mask_file']))
        assert mask.shape == (48, 64) and int(mask.sum()) == annotation['area']
        assert (tmp_path / 'out' / 'overlays' / f'{image["file_name"]}.jpg').is_file()


def test_what_is_to_be_said_of_a_sentence_is_said_once(predictor, clip, tmp_path):
    with pytest.warns(UserWarning, match='not English') as caught:
        segment_video(predictor, clip, 'собака', tmp_path / 'x.mp4', max_frames=3)
    assert len(caught) == 1


def test_an_error_leaves_no_video(predictor, clip, tmp_path, monkeypatch):
    asked = []
    predict = predictor.predict

    def fails(texts, **_):
        asked.append(texts)
        if len(asked) == 4:
            raise RuntimeError('out of memory')
        return predict(texts)

    monkeypatch.setattr(predictor, 'predict', fails)
    with pytest.raises(RuntimeError, match='out of memory'):
        segment_video(predictor, clip, 'a dog', tmp_path / 'out.mp4', tmp_path / 'out')
    assert {path.name for path in tmp_path.iterdir()} == {'clip.mp4', 'out'}
    assert len(json.loads((tmp_path / 'out' / 'predictions.json').read_text())['images']) == 3


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_completes_the_files_and_a_second_one_leaves_none(mmetris, predictor, clip, monkeypatch, number):
    asked, signals = [], 1
    predict = predictor.predict

    def interrupted(texts, **_):
        asked.append(texts)
        if len(asked) == 3:
            for _ in range(signals):
                os.kill(os.getpid(), number)
        return predict(texts)

    monkeypatch.setattr(predictor, 'predict', interrupted)
    before = signal.getsignal(number)
    status, out, err = mmetris(clip, 'a dog', '--out-file', clip.parent / 'out.mp4')
    assert status == 128 + number and f'written: {clip.parent / "out.mp4"}, 3 frames' in out
    assert err == 'stopped\n' and signal.getsignal(number) is before
    found = told(clip.parent / 'out.mp4')
    assert len(found['pixels']) == 3 and found['heard'] < 0.1
    (clip.parent / 'out.mp4').unlink()
    asked.clear()
    signals = 2
    try:
        assert mmetris(clip, 'a dog', '--out-file', clip.parent / 'out.mp4')[0] == 128 + number
    finally:
        signal.signal(number, before)  # The command ends at the third one at once.
    assert [path.name for path in clip.parent.iterdir()] == ['clip.mp4']


def test_the_command_writes_both_and_replaces_nothing(mmetris, clip, tmp_path):
    options = ('--out-file', tmp_path / 'x.webm', '--out-dir', tmp_path / 'out', '--max-frames', '2')
    status, out, err = mmetris(clip, 'a dog', *options)
    assert (status, err) == (0, '') and 'x.webm, 2 frames' in out and 'predictions.json' in out
    assert told(tmp_path / 'x.webm')['codec'] == 'vp9'
    content = (tmp_path / 'x.webm').read_bytes()
    for option in (options[:2], options[2:4]):
        status, _, err = mmetris(clip, 'a dog', *option)
        assert status == 2 and 'already' in err and '--overwrite' in err and err.count('\n') == 1
    assert (tmp_path / 'x.webm').read_bytes() == content
    assert mmetris(clip, 'a dog', *options, '--overwrite')[0] == 0


def test_without_pyav_the_command_says_how_to_install_it(mmetris, clip, monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    status, _, err = mmetris(clip, 'a dog', '--out-file', clip.parent / 'x.mp4')
    assert status == 2 and 'pip install av' in err and err.count('\n') == 1


def test_the_command_knows_the_endings():
    assert set(cli.VIDEO_FORMATS) == set(CONTAINERS)
