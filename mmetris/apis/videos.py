"""Segment what sentences mean in each frame of a video."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmetris.structures.found_boxes import BOX_LISTS
from mmetris.utils.checkpoint_io import write_atomically
from mmetris.utils.video_io import Frame, VideoReader, VideoWriter, encoder_of
from mmetris.visualization import draw_expressions

from .predictor import RefSegPredictor
from .result_files import ResultWriter
from .shapes_only import NOTE


class VideoReport(NamedTuple):
    """What became of a video.

    Attributes:
        num_frames: Frames that were read, and drawn if a video was written.
        num_asked: Frames that the model was asked about.
        is_stopped: Whether ``should_stop`` ended it.
    """

    num_frames: int
    num_asked: int
    is_stopped: bool


def segment_video(
    predictor: RefSegPredictor,
    video: str | os.PathLike,
    texts: str | Sequence[str],
    out_file: str | os.PathLike | None = None,
    out_dir: str | os.PathLike | None = None,
    every: int = 1,
    max_frames: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    track: Callable[[Iterable[Frame], int], Iterable[Frame]] = lambda frames, total: frames,
    boxes: bool = False,
    box_threshold: float | None = None,
) -> VideoReport:
    """Segment frame by frame, and write a video, or files for each frame that was looked at.

    The video has the frame rate and the sound of the one that is read. A file is complete or not there: an error, or
    KeyboardInterrupt, leaves none; ``should_stop`` completes it with the frames until then.

    Args:
        predictor: Whose model is asked.
        video: File to read.
        texts: A sentence or several.
        out_file: Video to write, see :data:`mmetris.utils.video_io.CONTAINERS`. Defaults to None, none.
        out_dir: Folder for masks, overlays and a JSON, as :class:`RefSegInferencer` writes them; each image has the
            ``frame``, from 0, and its second in ``time`` besides. Defaults to None, none.
        every: Look at every so-manieth frame; those between show the masks of the one before. Defaults to 1.
        max_frames: Stop after so many frames. Defaults to None, at the end.
        should_stop: Asked after each frame. Defaults to never.
        track: What shows the progress: it gets the frames and their number, and gives the frames. Defaults to nothing.
        boxes: See :class:`RefSegInferencer`. Defaults to False.
        box_threshold: See there. Defaults to None: the model's own.

    Raises:
        ImportError: If PyAV is not installed.
        FileNotFoundError: If there is no such video.
        ValueError: If it cannot be read, a sentence is empty, the ending of ``out_file`` is none of a video, neither
            ``out_file`` nor ``out_dir`` is given, or ``every`` or ``max_frames`` is less than 1.
    """
    if out_file is None and out_dir is None:
        raise ValueError('give out_file for a video, or out_dir for the frames')
    for name, number in (('every', every), ('max_frames', max_frames)):
        if number is not None and number < 1:
            raise ValueError(f'{name} must be 1 at least, but is {number}')
    texts = predictor.asker.check_texts(texts)
    if out_file is not None:
        encoder_of(out_file)
    reader = VideoReader(video)
    total = min(reader.num_frames, max_frames or reader.num_frames)
    num_frames = num_asked = 0
    is_stopped = False
    with ExitStack() as stack:
        stack.enter_context(reader)
        files = None
        if out_dir is not None:
            note = None if predictor.asker.notes is None else NOTE
            files = ResultWriter(out_dir, predictor.threshold, predictor.no_target_rule, note)
            stack.enter_context(files)
        writer = None
        if out_file is not None:
            temporary = stack.enter_context(write_atomically(out_file))
            writer = stack.enter_context(VideoWriter(temporary, reader.rate, reader.time_base, reader.sounds))
        found: dict[str, Any] = {}
        on_sound = None if writer is None else writer.add_sound
        for frame in track(_limited(reader.frames(on_sound), max_frames), total):
            is_asked = num_frames % every == 0
            if is_asked:
                predictor.set_image(np.ascontiguousarray(frame.pixels[..., ::-1]))
                with warnings.catch_warnings():  # What there is to say of the sentences has been said.
                    warnings.filterwarnings('ignore', 'the sentence "')
                    found = predictor.predict(texts, boxes=boxes, box_threshold=box_threshold)
                    num_asked += 1
            picture = _draw(frame.pixels, found)
            if writer is not None:
                writer.add(picture, frame.time, frame.duration)
            if files is not None and is_asked:
                name = f'{Path(video).stem}_{num_frames:06d}'
                own = {} if predictor.note is None else dict(note=predictor.note)
                one = dict(found, name=name, image=frame.pixels, **own)
                files.add_answers(one, picture, frame=num_frames, time=float(frame.time))
            num_frames += 1
            if is_stopped := should_stop():
                break
        if num_frames == 0:
            raise ValueError(f'{video} has no frame that can be read')
        if writer is not None and on_sound is not None:
            reader.rest_of_sound(on_sound, writer.end)
    return VideoReport(num_frames, num_asked, is_stopped)


def _limited(frames: Iterator[Frame], number: int | None) -> Iterator[Frame]:
    for count, frame in enumerate(frames, 1):
        yield frame
        if count == number:
            return


def _draw(image: np.ndarray, found: dict[str, Any]) -> np.ndarray:
    more = {key: found[key] for key in ('no_target', *BOX_LISTS) if key in found}
    return draw_expressions(image, found['texts'], found.get('masks'), **more)


__all__ = ['VideoReport', 'segment_video']
