"""The demo scripts as real processes, started from another folder."""

import os

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.quiet_start import assert_quiet
from tests.toy_inference import ROOT, picture, save_toy_model
from tests.warm_process import run_script

pytestmark = pytest.mark.processes


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A toy model, a picture and a video of nine frames in a folder with a space in its name."""
    folder = tmp_path_factory.mktemp('some where') / 'a space'
    save_toy_model(folder / 'model')
    Image.fromarray(picture(90, 120)).save(folder / 'picture.png')
    writer = cv2.VideoWriter(str(folder / 'clip.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 10, (121 // 2 * 2, 90))
    assert writer.isOpened()
    for frame in range(9):
        writer.write(np.roll(picture(90, 120), 5 * frame, axis=1))
    writer.release()
    return folder


def call(script, *arguments, cwd, code=0):
    """Output of a demo script, which must end with ``code``."""
    env = dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='-1')
    done = run_script(ROOT / 'demo' / script, *arguments, '--model', 'model', cwd=cwd, env=env)
    assert done.returncode == code, done.stderr
    assert 'Traceback' not in done.stderr
    assert_quiet(done.stdout + done.stderr)
    return done.stdout, done.stderr


def frames_of(path):
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return frames, capture.get(cv2.CAP_PROP_FPS)


def test_the_image_demo_writes_a_picture_and_prints_nothing_else(folder):
    texts = ('the left dog', 'the brown cat')
    out, err = call('image_demo.py', 'picture.png', *texts, '--out-file', 'out/x.png', cwd=folder)
    assert err == '' and len(out.strip().split('\n')) == 3
    assert np.asarray(Image.open(folder / 'out' / 'x.png')).shape[1] == 480
    out, err = call('image_demo.py', 'none.png', 'a dog', cwd=folder, code=2)
    assert (out, err) == ('', 'error: image not found: none.png\n')


def test_the_video_demo_writes_every_frame_at_the_same_speed(folder):
    out, err = call('video_demo.py', 'clip.avi', 'the left dog', 'a cat', '--out-file', 'new/all.mp4', cwd=folder)
    assert err == '' and 'written: new/all.mp4, 9 frames' in out
    frames, fps = frames_of(folder / 'new' / 'all.mp4')
    assert len(frames) == 9 and fps == pytest.approx(10, abs=0.1)
    assert all(side % 2 == 0 for side in frames[0].shape[:2])
    assert [path.name for path in (folder / 'new').iterdir()] == ['all.mp4']


def test_between_looked_at_frames_the_masks_stay_and_the_count_is_limited(folder):
    options = ('--every', '3', '--max-frames', '5', '--out-file', 'some.avi')
    out, _ = call('video_demo.py', 'clip.avi', 'the left dog', *options, cwd=folder)
    assert '5 frames' in out and len(frames_of(folder / 'some.avi')[0]) == 5


def test_what_is_no_video_leaves_no_file(folder):
    (folder / 'text.mp4').write_text('no video')
    _, err = call('video_demo.py', 'text.mp4', 'a dog', '--out-file', 'no.mp4', cwd=folder, code=2)
    assert err.strip().split('\n')[-1] == 'error: text.mp4 cannot be read as a video'
    assert not (folder / 'no.mp4').exists()
