"""Videos: what was written is decoded again, and compared in codec, rate, times, colours and sound."""

import sys
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from mmetris.utils import video_io
from mmetris.utils.video_io import CONTAINERS, VideoReader, VideoWriter, encoder_of
from tests.toy_videos import COLORS, told, write_video


def copy(source, target, number=None):
    """Read a video and write it again, with its sound."""
    with VideoReader(source) as reader, VideoWriter(target, reader.rate, reader.time_base, reader.sounds) as writer:
        for count, frame in enumerate(reader.frames(writer.add_sound), 1):
            writer.add(frame.pixels, frame.time, frame.duration)
            if count == number:
                break
        reader.rest_of_sound(writer.add_sound, writer.end)
    return told(target)


@pytest.mark.parametrize(
    ('suffix', 'codec', 'sound'),
    [
        ('mp4', 'h264', 'aac'),
        ('mov', 'h264', 'aac'),
        ('mkv', 'h264', 'aac'),
        ('webm', 'vp9', 'opus'),
        ('avi', 'mjpeg', 'mp3float'),
    ],
)
def test_pictures_rate_and_sound_arrive_in_every_kind_of_file(tmp_path, suffix, codec, sound):
    found = copy(write_video(tmp_path / 'in.mp4', sound='aac'), tmp_path / f'out.{suffix}')
    assert (found['codec'], found['rate'], found['sounds']) == (codec, 10, [sound])
    # Encoders of sound begin before the first picture; where a file has no times below zero, all are later by that.
    start = found['times'][0]
    assert found['times'] == pytest.approx([start + index / 10 for index in range(8)], abs=1e-3) and start < 0.03
    assert found['end'] - start == pytest.approx(0.8, abs=0.01) and found['heard'] == pytest.approx(0.8, abs=0.06)
    assert found['loudness'] > 0.1 * (1 if found['loudness'] <= 1.5 else 32767)
    for index, pixels in enumerate(found['pixels']):
        assert np.abs(pixels[30:44, 40:60].mean((0, 1)) - COLORS[index % 4]).max() < 8


@pytest.mark.parametrize('suffix', ['mp4', 'webm', 'avi'])
@pytest.mark.parametrize('rate', [Fraction(120000, 1001), Fraction(1, 2), Fraction(300), Fraction(30000, 1001)])
def test_odd_rates_are_kept(tmp_path, suffix, rate):
    source = write_video(tmp_path / 'in.mkv', rate, number=6)
    with VideoReader(source) as reader:
        assert reader.is_constant and float(reader.rate) == pytest.approx(float(rate), rel=1e-5)
        times = [frame.time for frame in reader.frames()]
        assert times == [index / reader.rate for index in range(6)]
    found = copy(source, tmp_path / f'out.{suffix}')
    assert float(found['rate']) == pytest.approx(float(rate), rel=1e-3 if suffix == 'webm' else 1e-5)
    assert found['times'] == pytest.approx([float(index / rate) for index in range(6)], abs=6e-4)
    if suffix == 'mp4':
        assert copy(write_video(tmp_path / 'in.mp4', rate, 6), tmp_path / 'exact.mp4')['rate'] == rate


def test_frames_that_come_at_any_time_keep_their_times(tmp_path):
    times = [0, 40, 73, 180, 181, 500]
    assert not video_io._is_constant([0, 3600, 6570, 16200, 16290], Fraction(90000), Fraction(1, 90000))
    source = write_video(tmp_path / 'in.mp4', Fraction(30), 6, times=times)
    with VideoReader(source) as reader:
        assert not reader.is_constant
    found = copy(source, tmp_path / 'out.mp4')
    assert found['times'] == pytest.approx([time / 1000 for time in times], abs=1e-6)
    # An AVI has frames at multiples of one time only: 181 is too near to 180.
    found = copy(source, tmp_path / 'out.avi')
    assert len(found['times']) == 5
    assert found['times'] == pytest.approx([0, 0.04, 0.073, 0.18, 0.5], abs=0.5 / float(found['rate']))


def test_a_gif_keeps_its_length_and_has_at_most_fifty_frames_in_a_second(tmp_path):
    source = write_video(tmp_path / 'in.mp4', Fraction(120000, 1001), 24, sound='aac')
    with pytest.warns(UserWarning, match='a GIF has no sound'):
        found = copy(source, tmp_path / 'out.gif')
    assert found['codec'] == 'gif' and found['sounds'] == [] and found['end'] == pytest.approx(0.2, abs=0.021)
    steps = np.diff(found['times'])
    assert steps.min() > 0.0199 and len(steps) < 12
    assert np.abs(found['pixels'][0][30:44, 40:60].mean((0, 1)) - COLORS[0]).max() < 8
    slow = copy(write_video(tmp_path / 'slow.mp4', Fraction(1, 2), 3), tmp_path / 'slow.gif')
    assert slow['times'] == pytest.approx([0, 2, 4]) and slow['end'] == pytest.approx(6)


@pytest.mark.skipif(not hasattr(VideoStream, 'set_display_rotation'), reason='this PyAV cannot write a turn')
def test_a_turned_video_is_read_upright(tmp_path):
    write_video(tmp_path / 'in.mp4', turned=90, number=2)
    with VideoReader(tmp_path / 'in.mp4') as reader:
        frame = next(reader.frames()).pixels
    assert frame.shape == (64, 48, 3)
    # Against the clock: what was upper left is lower left.
    assert frame[50, 10].sum() < 0.7 * frame[10, 10].sum()


def test_sound_ends_with_the_pictures(tmp_path):
    source = write_video(tmp_path / 'in.mp4', number=20, sound='aac')
    for suffix in ('mp4', 'webm'):
        found = copy(source, tmp_path / f'out.{suffix}', number=5)
        assert len(found['times']) == 5 and found['heard'] == pytest.approx(0.5, abs=0.06)


def test_sound_that_cannot_be_written_is_left_out_and_said(tmp_path, monkeypatch):
    monkeypatch.setitem(CONTAINERS, 'webm', CONTAINERS['webm']._replace(sound_encoder='none_such'))
    with pytest.warns(UserWarning, match='sound that webm cannot hold here is left out: .*none_such'):
        found = copy(write_video(tmp_path / 'in.mp4', sound='aac'), tmp_path / 'out.webm')
    assert found['sounds'] == [] and len(found['times']) == 8


def test_odd_sides_get_a_row_and_a_column(tmp_path):
    with VideoWriter(tmp_path / 'x.mp4', Fraction(5)) as writer:
        for index in range(2):
            writer.add(np.full((33, 41, 3), 99, np.uint8), Fraction(index, 5), Fraction(1, 5))
    assert told(tmp_path / 'x.mp4')['pixels'][0].shape == (34, 42, 3)


def test_a_damaged_part_is_left_out(tmp_path):
    content = bytearray(write_video(tmp_path / 'in.avi', number=9, codec='mjpeg').read_bytes())
    starts = [at for at in range(len(content)) if content[at : at + 4] == b'00dc'][:9]
    content[starts[4] + 8 : starts[5] - 8] = bytes(starts[5] - starts[4] - 16)
    (tmp_path / 'in.avi').write_bytes(content)
    with VideoReader(tmp_path / 'in.avi') as reader, pytest.warns(UserWarning, match='1 damaged parts'):
        assert len(list(reader.frames())) == 8


def test_what_is_no_video_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match='video not found: none.mp4'):
        VideoReader('none.mp4')
    (tmp_path / 'text.mp4').write_text('no video')
    with pytest.raises(ValueError, match=r'text.mp4 cannot be read as a video'):
        VideoReader(tmp_path / 'text.mp4')
    write_video(tmp_path / 'in.mp4')
    (tmp_path / 'cut.mp4').write_bytes((tmp_path / 'in.mp4').read_bytes()[:500])
    with pytest.raises(ValueError, match=r'cut.mp4 cannot be read'):
        VideoReader(tmp_path / 'cut.mp4')
    with pytest.raises(ValueError, match=r'x.txt: write a video as .mp4, .mov'):
        VideoWriter(tmp_path / 'x.txt', Fraction(1))


def test_a_playlist_fetches_nothing(tmp_path):
    """By FFmpeg's own rule: a playlist that is a file names files only."""
    content, asked = write_video(tmp_path / 'a.ts').read_bytes(), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f'http://127.0.0.1:{server.server_port}/a.ts'
        lines = ['#EXTM3U', '#EXT-X-TARGETDURATION:1', '#EXTINF:1,', address, '#EXT-X-ENDLIST']
        (tmp_path / 'list.m3u8').write_text('\n'.join(lines))
        with pytest.raises(ValueError, match='cannot be read as a video'):
            VideoReader(tmp_path / 'list.m3u8')
        server.shutdown()
    assert not asked


def test_without_an_encoder_the_next_is_taken_or_the_ending_is_refused(monkeypatch):
    monkeypatch.setattr(av, 'codecs_available', {'libvpx-vp9', 'mpeg4'})
    assert encoder_of('x.mp4')[1] == 'libvpx-vp9' and encoder_of('x.MOV')[1] == 'mpeg4'
    with pytest.raises(ValueError, match=r'x.avi: FFmpeg has none of mjpeg here; take another ending'):
        encoder_of('x.avi')


def test_without_pyav_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    with pytest.raises(ImportError, match='pip install av'):
        video_io.import_av()


def test_each_encoder_is_one_that_some_ffmpeg_has():
    here = {
        container: [name for name, _ in kind.encoders if name in av.codecs_available]
        for container, kind in CONTAINERS.items()
    }
    assert all(here.values())
