"""Small videos with sound, written by PyAV itself."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

COLORS = ((200, 40, 40), (40, 160, 60), (50, 60, 200), (220, 200, 60))


def write_video(
    path: Path,
    rate: Fraction = Fraction(10),
    number: int = 8,
    size: tuple[int, int] = (64, 48),
    sound: str | None = None,
    times: list[int] | None = None,
    turned: int = 0,
    codec: str = 'libx264',
) -> Path:
    """Frames of one colour each, :data:`COLORS` again and again, and a tone of the same length.

    Args:
        path: File to write, as its ending says.
        rate: Frames in a second.
        number: Of frames.
        size: (W, H).
        sound: Codec of the tone; None for silence.
        times: Of the frames, in thousandths of a second; None for those of ``rate``.
        turned: Degrees by which players turn it, against the clock.
        codec: Of the video.
    """
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = dict(mjpeg='yuvj420p').get(codec, 'yuv420p')
        if turned:
            stream.set_display_rotation(turned)
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        tone = None if sound is None else container.add_stream(sound, rate=48000, layout='mono')
        seconds = number / rate if times is None else Fraction(times[-1], 1000)
        if tone is not None:
            samples = (8000 * np.sin(2 * np.pi * 440 * np.arange(int(48000 * seconds)) / 48000)).astype(np.int16)
            for start in range(0, len(samples), 960):
                frame = av.AudioFrame.from_ndarray(samples[None, start : start + 960], format='s16', layout='mono')
                frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
                container.mux(tone.encode(frame))
            container.mux(tone.encode(None))
        for index in range(number):
            pixels = np.full((size[1], size[0], 3), COLORS[index % 4], np.uint8)
            pixels[: size[1] // 2, : size[0] // 2] //= 2  # The upper left is darker.
            frame = av.VideoFrame.from_ndarray(pixels, format='rgb24')
            frame.pts, frame.time_base = (index, 1 / rate) if times is None else (times[index], Fraction(1, 1000))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def told(path: Path) -> dict:
    """What a decoder finds in a file: codec, rate, times of frames (seconds), sound and its length."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        found = dict(
            codec=stream.codec_context.name,
            rate=stream.average_rate,
            times=[float(frame.pts * stream.time_base) for frame in frames],
            pixels=[frame.to_ndarray(format='rgb24') for frame in frames],
            end=float(frames[-1].pts * stream.time_base + frames[-1].duration * stream.time_base),
            sounds=[audio.codec_context.name for audio in container.streams.audio],
        )
    with av.open(str(path)) as container:
        for audio in container.streams.audio[:1]:
            heard = [frame.to_ndarray().astype(float) for frame in container.decode(audio)]
            found['heard'] = sum(part.shape[-1] for part in heard) / audio.codec_context.sample_rate
            found['loudness'] = max(np.abs(part).max() for part in heard)
    return found
