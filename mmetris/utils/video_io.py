"""Videos by PyAV, FFmpeg's libraries: upright frames at their times, and files that play in browsers, with sound.

Times are exact fractions of seconds. A video of a constant rate, also of an odd one (120000/1001, 1/2, 300), is written
with that rate; one whose frames come at any time, as phones record them, keeps the time of each frame.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from .files import check_ordinary
from .text_files import writable

DEFAULT_RATE = Fraction(25)  # Of a video that does not tell, say of one frame.
# What a file counts in, whatever times are given: a GIF in hundredths of a second, an AVI in frames (None).
_TICKS = dict(gif=Fraction(1, 100), avi=None)
LEAST_TICKS_OF_GIF = 2  # Browsers slow shorter frames down.
_FORMAT_NAMES = dict(mkv='matroska')  # Others are called as their endings.
_BT709, _LIMITED = 1, 1  # FFmpeg's numbers
NO_SOUND = 'a GIF has no sound: that of the video is left out'


class Container(NamedTuple):
    """How a kind of file is written.

    Attributes:
        encoders: FFmpeg's video encoders with the format of their pixels; the first that is at hand is taken.
        sounds: Codecs of sound that are copied as they are.
        sound_encoder: What other sound is encoded by; '' where there is none.
        options: Of the file.
    """

    encoders: tuple[tuple[str, str], ...]
    sounds: tuple[str, ...] = ()
    sound_encoder: str = ''
    options: tuple[tuple[str, str], ...] = ()


# Not every build of FFmpeg has x264, which is under the GPL; the others are of macOS, Windows and Cisco.
_H264 = tuple((name, 'yuv420p') for name in ('libx264', 'h264_videotoolbox', 'h264_mf', 'libopenh264'))
_VP9 = (('libvpx-vp9', 'yuv420p'),)
# The index in front, so that a page can play it while it is loaded.
_FAST_START = (('movflags', '+faststart'),)
# An AVI has no times, and would skip a frame where sound that begins before the first one moves all.
_AS_THEY_ARE = (('avoid_negative_ts', 'disabled'),)
CONTAINERS = dict(
    mp4=Container((*_H264, *_VP9), ('aac', 'mp3', 'opus', 'flac'), 'aac', _FAST_START),
    mov=Container((*_H264, ('mpeg4', 'yuv420p')), ('aac', 'mp3', 'alac', 'pcm_s16le'), 'aac', _FAST_START),
    mkv=Container((*_H264, *_VP9), ('aac', 'mp3', 'opus', 'vorbis', 'flac', 'ac3', 'eac3', 'pcm_s16le'), 'aac'),
    webm=Container((*_VP9, ('libvpx', 'yuv420p')), ('opus', 'vorbis'), 'libopus'),
    avi=Container((('mjpeg', 'yuvj420p'),), ('mp3', 'ac3', 'pcm_s16le'), 'libmp3lame', _AS_THEY_ARE),
    gif=Container((('gif', 'pal8'),)),
)
# Good rather than small, and no slower than a model: masks and letters have sharp edges.
_ENCODER_OPTIONS = {
    'libx264': dict(crf='18', preset='medium'),
    'libvpx-vp9': {'crf': '24', 'row-mt': '1', 'cpu-used': '4', 'deadline': 'good'},
    'libvpx': {'crf': '8', 'cpu-used': '4', 'deadline': 'good'},
    'mjpeg': dict(qmin='2', qmax='3'),
}


class Frame(NamedTuple):
    """One frame of a video.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, upright.
        time: Seconds after the first frame that the file has.
        duration: Seconds until the next.
    """

    pixels: np.ndarray
    time: Fraction
    duration: Fraction


def import_av() -> Any:
    """PyAV.

    Raises:
        ImportError: If it is not installed; the message says how it is.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError(
            f'videos are read and written by PyAV, which cannot be imported ({error}): pip install av'
        ) from error
    return av


class VideoReader:
    """A video's frames, one after the other; a context manager.

    Args:
        path: A file in any format that FFmpeg reads.

    Attributes:
        rate: Frames in a second; their mean where ``is_constant`` is False.
        is_constant: Whether each frame is at a whole multiple of 1 / ``rate``.
        num_frames: How many there are, as far as the file tells.
        sounds: PyAV's streams of sound.

    Raises:
        ImportError: If PyAV is not installed.
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read as a video, or is no ordinary file.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self._av, self.path = import_av(), path
        if not Path(path).is_file():
            check_ordinary(path)
            raise FileNotFoundError(f'video not found: {path}')
        with self._open() as container:
            stream = self._video_of(container)
            self._tick = stream.time_base
            try:
                times = [packet.pts for packet in container.demux(stream) if packet.size]
            except self._av.error.FFmpegError as error:
                raise ValueError(f'{path} cannot be read as a video: {error}') from error
            rates = [stream.average_rate, stream.guessed_rate, stream.base_rate]
        self.num_frames = len(times)
        known = sorted(time for time in times if time is not None)
        candidates = [Fraction(rate) for rate in rates if rate] or [DEFAULT_RATE]
        self._start = known[0] if known else 0
        self.is_constant, self.rate = len(known) < len(times), candidates[0]
        for rate in candidates:
            if not self.is_constant and _is_constant(known, rate, self._tick):
                self.is_constant, self.rate = True, rate
        self._container: Any = None

    @property
    def time_base(self) -> Fraction:
        """What all times of frames are multiples of, in seconds."""
        return 1 / self.rate if self.is_constant else Fraction(self._tick)

    @property
    def sounds(self) -> Sequence[Any]:
        return self._container.streams.audio

    def __enter__(self) -> VideoReader:
        self._container = self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def frames(self, on_sound: Callable[[Any, Fraction], None] | None = None) -> Iterator[Frame]:
        """Decode from the start.

        Damaged parts are left out, with a warning at the end.

        Args:
            on_sound: Called for each packet of sound as it comes along, with the second of the file's clock at which
                the first frame is. Defaults to None: sound is passed over.
        """
        stream, damaged, index = self._video_of(self._container), 0, -1
        stream.thread_type = 'AUTO'
        waiting: tuple[np.ndarray, Fraction] | None = None
        streams = [stream, *(self.sounds if on_sound is not None else ())]
        start = self._start * self._tick
        for packet in self._container.demux(streams):
            if packet.stream.type == 'audio':
                if on_sound is not None and packet.size:
                    on_sound(packet, start)
                continue
            try:
                decoded = packet.decode()
            except self._av.error.InvalidDataError:
                damaged += 1
                continue
            for frame in decoded:
                index += 1
                time = self._time_of(frame.pts, index)
                if waiting is not None:
                    if time <= waiting[1]:  # Two frames of one moment, or clocks that run backwards.
                        continue
                    yield Frame(*waiting, time - waiting[1])
                waiting = _upright(frame), time
        if waiting is not None:
            yield Frame(*waiting, 1 / self.rate)
        if damaged:
            warnings.warn(f'{self.path}: {damaged} damaged parts of the video are left out', stacklevel=2)

    def rest_of_sound(self, on_sound: Callable[[Any, Fraction], None], until: Fraction) -> None:
        """Read on after some of the frames, for sound that is stored later than the pictures it belongs to.

        Args:
            on_sound: See :meth:`frames`.
            until: Second after the first frame.
        """
        start = self._start * self._tick
        for packet in self._container.demux(list(self.sounds)) if self.sounds else ():
            if packet.size:
                on_sound(packet, start)
            if packet.pts is None or packet.pts * packet.time_base - start > until:
                return

    def _time_of(self, pts: int | None, index: int) -> Fraction:
        if pts is None:
            return index / self.rate
        time = (pts - self._start) * Fraction(self._tick)
        return round(time * self.rate) / self.rate if self.is_constant else time

    def _open(self) -> Any:
        try:
            with utf8_path(self.path) as readable:
                return self._av.open(readable, metadata_errors='replace')
        except (self._av.error.FFmpegError, ValueError) as error:
            raise ValueError(f'{self.path} cannot be read as a video') from error

    def _video_of(self, container: Any) -> Any:
        if not container.streams.video:
            raise ValueError(f'{self.path} cannot be read as a video: it has no pictures')
        return container.streams.best('video')


def _is_constant(times: Sequence[int], rate: Fraction, tick: Fraction) -> bool:
    """Whether times, in ticks, are different whole multiples of 1 / ``rate``, as exactly as a tick allows, and frames
    are missing at half of these at most: what comes at any time is at multiples of something, too."""
    seconds = [(time - times[0]) * Fraction(tick) for time in times]
    counts = [round(second * rate) for second in seconds]
    return len(set(counts)) == len(counts) > counts[-1] / 2 and all(
        abs(count / rate - second) <= tick for count, second in zip(counts, seconds)
    )


def _upright(frame: Any) -> np.ndarray:
    """(H, W, 3) RGB of a frame, turned as the camera noted."""
    pixels = frame.to_ndarray(format='rgb24')
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))


class VideoWriter:
    """Write pictures and sound; a context manager, which completes the file at its end.

    Args:
        path: File to write, of one of the endings of :data:`CONTAINERS`.
        rate: Frames in a second, or their mean.
        time_base: What all times of pictures are multiples of, in seconds. Defaults to None: 1 / ``rate``.
        sounds: Streams of sound of the video that is read; what the file cannot hold is encoded anew.

    Raises:
        ImportError: If PyAV is not installed.
        ValueError: If the ending is another, or FFmpeg here has no encoder for it.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        rate: Fraction,
        time_base: Fraction | None = None,
        sounds: Sequence[Any] = (),
    ) -> None:
        self._av, self.path = import_av(), Path(path)
        self._kind, self.encoder = encoder_of(path)
        self._suffix = self.path.suffix.lower().lstrip('.')
        self._rate, self._time_base = rate, 1 / rate if time_base is None else time_base
        if self._suffix in _TICKS:
            self._time_base = _TICKS[self._suffix] or 1 / rate
        self._streams_of_sound = list(sounds)
        self._sounds: dict[int, _Sound] = {}
        self._waiting: list[tuple[Any, Fraction]] = []  # Packets of sound that are later than the pictures so far.
        self._container: Any = None
        self._last = -LEAST_TICKS_OF_GIF  # time of the last picture that was written, in multiples of the time base
        self.num_frames = 0
        self.end = Fraction(0)  # of the last picture, in seconds
        if sounds and not self._kind.sounds:
            warnings.warn(NO_SOUND, stacklevel=2)
            self._streams_of_sound = []

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._container is None:
            return
        try:
            if error is None:
                self._write_sound()
                for stream in (self._stream, *self._sounds.values()):
                    self._container.mux(stream.encode(None))
        finally:
            self._container.close()
            self._links.close()

    def add(self, picture: np.ndarray, time: Fraction, duration: Fraction) -> None:
        """Write one picture.

        Args:
            picture: (H, W, 3) uint8 RGB; those behind the first are brought to its size.
            time: Second at which it is shown; later than that of the picture before.
            duration: How long, in seconds.
        """
        if self._container is None:
            self._begin(picture)
        self.num_frames, self.end = self.num_frames + 1, time + duration
        count, least = round(time / self._time_base), LEAST_TICKS_OF_GIF if self.encoder == 'gif' else 1
        if count >= self._last + least:  # Else the file has no moment for it.
            self._last = count
            frame = self._palette_frame(picture) if self.encoder == 'gif' else self._frame(picture)
            frame.time_base, frame.pts = self._time_base, count
            frame.duration = max(least, round(duration / self._time_base))
            self._container.mux(self._stream.encode(frame))
        self._write_sound()

    def add_sound(self, packet: Any, start: Fraction) -> None:
        """Write sound, up to the end of the last picture so far; the rest waits for more pictures.

        Args:
            packet: A packet of one of ``sounds``.
            start: Second of its clock at which the first picture is.
        """
        if self._streams_of_sound and packet.pts is not None:
            self._waiting.append((packet, start))

    def _begin(self, picture: np.ndarray) -> None:
        self._links = ExitStack()
        name = self._links.enter_context(utf8_path(self.path))
        self._container = self._av.open(
            name, 'w', format=_FORMAT_NAMES.get(self._suffix), options=dict(self._kind.options)
        )
        stream = self._container.add_stream(
            self.encoder, rate=self._rate, options=_ENCODER_OPTIONS.get(self.encoder, {})
        )
        is_gif = self.encoder == 'gif'
        stream.height, stream.width = picture.shape[:2] if is_gif else _even(picture).shape[:2]
        stream.pix_fmt = dict(self._kind.encoders)[self.encoder]
        stream.codec_context.time_base = self._time_base
        if self.encoder.startswith('libvpx'):
            stream.bit_rate = 0  # The quality alone counts.
        self._colors: dict[str, Any] = {}
        if stream.pix_fmt == 'yuv420p':  # Said, since players take large pictures for BT.709 and small ones for BT.601.
            context = stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            context.color_range = _LIMITED
            self._colors = dict(dst_colorspace='ITU709')
        self._stream = stream
        for sound in self._streams_of_sound:
            try:
                self._sounds[sound.index] = _Sound(self._container, sound, self._kind)
            except (self._av.error.FFmpegError, ValueError, AttributeError) as error:  # No decoder, or no encoder.
                reason = str(error).strip() or type(error).__name__
                warnings.warn(f'sound that {self._suffix} cannot hold here is left out: {reason}', stacklevel=2)

    def _frame(self, picture: np.ndarray) -> Any:
        frame = self._av.VideoFrame.from_ndarray(_even(picture), format='rgb24')
        return frame.reformat(self._stream.width, self._stream.height, self._stream.pix_fmt, **self._colors)

    def _palette_frame(self, picture: np.ndarray) -> Any:
        """A frame of 256 colours of its own."""
        image = Image.fromarray(picture)
        size = self._stream.width, self._stream.height
        image = (image if image.size == size else image.resize(size)).quantize(256)
        palette = np.zeros((256, 4), np.uint8)
        colors = np.asarray(image.getpalette('RGB'), np.uint8).reshape(-1, 3)
        palette[:, 0], palette[: len(colors), 1:] = 255, colors
        return self._av.VideoFrame.from_ndarray((np.asarray(image), palette), format='pal8')

    def _write_sound(self) -> None:
        later = []
        for packet, start in self._waiting:
            if packet.stream.index not in self._sounds:
                continue
            if packet.pts * packet.time_base - start < self.end:
                self._container.mux(self._sounds[packet.stream.index].packets_of(packet, start))
            else:
                later.append((packet, start))
        self._waiting = later


class _Sound:
    """One stream of sound, copied if the file can hold it, else encoded anew.

    Args:
        container: The file that is written.
        source: The stream that is read.
        kind: What the file can hold.
    """

    def __init__(self, container: Any, source: Any, kind: Container) -> None:
        self._is_copied = source.codec_context.name in kind.sounds
        if self._is_copied:
            self._stream = container.add_stream_from_template(source)
        else:
            rate = 48000 if kind.sound_encoder == 'libopus' else source.codec_context.sample_rate
            self._stream = container.add_stream(kind.sound_encoder, rate=rate)

    def packets_of(self, packet: Any, start: Fraction) -> list[Any]:
        """What is written for a packet of the source, whose clock is at ``start`` when the first picture is shown."""
        shift = round(start / packet.time_base)
        if self._is_copied:
            packet.pts -= shift
            packet.dts = packet.pts if packet.dts is None else packet.dts - shift
            packet.stream = self._stream
            return [packet]
        found: list[Any] = []
        try:
            frames = packet.decode()
        except import_av().error.InvalidDataError:  # A moment of silence.
            return found
        for frame in frames:
            if frame.pts is not None:
                frame.pts -= shift
            if frame.pts is None or frame.pts >= 0:
                found.extend(self._stream.encode(frame))
        return found

    def encode(self, frame: None) -> list[Any]:
        """What the encoder still holds."""
        return [] if self._is_copied else self._stream.encode(frame)


def encoder_of(path: str | os.PathLike) -> tuple[Container, str]:
    """How a file with this ending is written, and FFmpeg's encoder for it.

    Raises:
        ImportError: If PyAV is not installed.
        ValueError: If the ending is none of a video, or FFmpeg here has no encoder for it.
    """
    suffix = Path(path).suffix.lower().lstrip('.')
    endings = ', '.join(f'.{name}' for name in CONTAINERS)
    if suffix not in CONTAINERS:
        raise ValueError(f'{path}: write a video as {endings}')
    available = import_av().codecs_available
    for name, _ in CONTAINERS[suffix].encoders:
        if name in available:
            return CONTAINERS[suffix], name
    wanted = ', '.join(name for name, _ in CONTAINERS[suffix].encoders)
    raise ValueError(f'{path}: FFmpeg has none of {wanted} here; take another ending of {endings}')


def _even(picture: np.ndarray) -> np.ndarray:
    """The picture with one more row or column where it has an odd number of them: codecs want even sides."""
    height, width = picture.shape[:2]
    return np.ascontiguousarray(np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode='edge'))


@contextmanager
def utf8_path(path: str | os.PathLike) -> Iterator[str]:
    """A file under a name that FFmpeg takes: itself, or a link to it if its name is no UTF-8.

    Args:
        path: A file that is there.
    """
    name = os.fspath(path)
    if writable(name) == name:
        yield name
        return
    with TemporaryDirectory() as folder:
        link = Path(folder) / f'link{Path(path).suffix}'
        link.symlink_to(Path(path).absolute())
        yield str(link)


__all__ = ['CONTAINERS', 'Container', 'Frame', 'VideoReader', 'VideoWriter', 'encoder_of', 'import_av', 'utf8_path']
