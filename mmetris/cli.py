"""The ``mmetris`` command, which ``demo/image_demo.py`` and ``demo/video_demo.py`` share.

A mistake ends with one line and exit status 2; with the environment variable ``MMETRIS_TRACEBACK=1`` the whole
traceback is shown. Results go to the standard output, everything else to the standard error. Nothing heavy is imported
before a command runs, so that --help and the shell's completion answer at once.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

import mmetris.threads  # noqa: F401  PyTorch reads what it sets when it is imported
from mmetris.package import PACKAGE, find_root
from mmetris.version import __version__

MODEL_HELP = (
    'Config file, name of a model ("mmetris models" lists them), folder of a training, or hf://owner/name of a shared '
    'one. '
    'Default: the demo model, which knows drawn shapes only.'
)
DTYPES = ('float32', 'bfloat16', 'float16')  # As in mmetris.utils.autocast, which would import PyTorch.
IMAGE_SUFFIXES = (
    '.bmp',
    '.gif',
    '.jfif',
    '.jpeg',
    '.jpg',
    '.png',
    '.ppm',
    '.pgm',
    '.tif',
    '.tiff',
    '.webp',
)  # image_io's
NO_TARGET_BY = ('head', 'peak', 'top', 'area')  # As in mmetris.models.decode_heads.no_target.
VIDEO_FORMATS = ('mp4', 'mov', 'mkv', 'webm', 'avi', 'gif')  # As in mmetris.utils.video_io.


def run(command: click.Command, arguments: list[str] | None = None) -> None:
    """Run a command to the end of the program: status 0, or 2 with one line on the standard error.

    Args:
        command: What to run.
        arguments: Words of the command line. Defaults to None: those of this process.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # A sentence may hold letters that the terminal's encoding has not.
            stream.reconfigure(errors='replace')
    warnings.simplefilter('always', UserWarning)
    warnings.showwarning = _show_warning
    try:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # Since mmetris/__init__.py.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        command.main(arguments, standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), error)
    except (click.Abort, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # A second one, while Python ends its threads, ends them.
        click.echo('stopped', err=True)
        sys.exit(130)
    except BrokenPipeError:  # "mmetris models | head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:  # No traceback for users, whatever happened.
        _fail(str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error), error)


def main() -> None:
    """Entry point of the console command."""
    run(mmetris_command)


@contextmanager
def _ends_at_once() -> Iterator[None]:
    """Within it Ctrl-C ends the process without an exception, which some packages drop or report while they are
    imported; for where there is nothing yet to finish."""

    def end(*_: Any) -> None:
        os.write(2, b'\nstopped\n')
        os._exit(130)

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:  # As of a job in the background.
        signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _fail(message: str, error: Exception) -> None:
    if os.environ.get('MMETRIS_TRACEBACK'):
        raise error
    message = ' '.join(message.split()) or type(error).__name__
    click.echo(f'error: {message if len(message) <= 600 else message[:600] + "…"}', err=True)
    sys.exit(2)


def _show_warning(message: Warning | str, category: type[Warning], filename: str, *_: Any, **__: Any) -> None:
    """Our own warnings in one line; those of the packages below concern developers."""
    if Path(filename).is_relative_to(Path(__file__).parent):
        click.echo(f'warning: {message}', err=True)


def _with(*options: Callable) -> Callable:
    """Several options as one decorator."""

    def decorate(function: Callable) -> Callable:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


class _UserPath(click.ParamType):
    """A name of a file or folder, or what may be one: ``~`` is the user's folder also where the shell leaves it there
    (``--out-file=~/dog.png``), and completion offers files."""

    name = 'path'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == '' and isinstance(param, click.Option):  # "$NAME" without a value; Path('') is the current folder.
            self.fail('the name is empty', param, ctx)
        return os.path.expanduser(value) if isinstance(value, str) else value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type='file')]


PATH = _UserPath()

_model_option = click.option('--model', type=PATH, metavar='MODEL', help=MODEL_HELP)

_loading_options = _with(
    click.option(
        '--weights', type=PATH, metavar='FILE', help='Checkpoint. Default: the one that belongs to the model.'
    ),
    click.option('--device', metavar='DEVICE', help='cpu, cuda:0, ... Default: a GPU if there is one, else the CPU.'),
    click.option(
        '--dtype',
        type=click.Choice(DTYPES),
        help='What the model computes in; float16 needs a GPU. Default: what its config says, or float32.',
    ),
)

_mask_options = _with(
    click.option(
        '--threshold',
        type=float,
        metavar='P',
        help="Pixels of a higher probability belong to the mask, 0 to 1. Default: the model's own, 0.35.",
    ),
    click.option(
        '--no-target-threshold',
        type=float,
        metavar='P',
        help='A sentence whose no-target score is at least this gets an empty mask, "not in the picture", 0 to 1. '
        "Default: the model's own, if it gives such scores.",
    ),
    click.option(
        '--no-target-by',
        type=click.Choice(NO_TARGET_BY),
        help='What the no-target score is: the answer of a head that was trained for it; or, for models without one, 1 '
        "less the mask's highest probability (peak), the mean of its highest hundredth (top), or its share of the "
        'picture (area), with a threshold. Default: the head, if there is one.',
    ),
    click.option(
        '--boxes',
        is_flag=True,
        help='Boxes, too, in pictures, print and JSON: those of a model with a box head (projects/grounding), else the '
        'box around each mask. A model that gives boxes alone needs no such option.',
    ),
    click.option(
        '--box-threshold',
        type=float,
        metavar='P',
        help="Boxes of a lower score are left out, 0 to 1. Default: the model's own, or the best box of each sentence.",
    ),
)

_reading_options = _with(
    click.option(
        '--max-pixels',
        type=click.IntRange(1),
        metavar='N',
        help='Largest image that is read, width times height. Default: 67 million.',
    ),
    click.option('--progress/--no-progress', default=True, help='Progress bar, on a terminal only. Default: on.'),
)

_model_options = _with(_model_option, _loading_options, _mask_options, _reading_options)

_skip_option = click.option(
    '--skip-unreadable', is_flag=True, help='Leave out images that cannot be read, with a warning.'
)

_overwrite_option = click.option(
    '--overwrite', is_flag=True, help='Replace files that are there. Default: stop before anything is computed.'
)


class _Group(click.Group):
    """A group that prints its help, with status 0, where no command is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ['--help'])


@click.group(name='mmetris', cls=_Group, context_settings=dict(help_option_names=['-h', '--help']))
@click.version_option(__version__, prog_name='mmetris')
def mmetris_command() -> None:
    """Segment what a sentence means.

    \b
    Examples:
      mmetris segment photo.jpg "the dog on the left" --model MODEL --out-file dog.png
      mmetris segment photos/ "the dog" "the brown cat" --model MODEL --out-dir results
      mmetris video clip.mp4 "the red car" --model MODEL --out-file car.mp4
      mmetris classify photo.jpg --names "cat;dog" --model MODEL
      mmetris models
      mmetris download detris_base_refcoco
      mmetris data check my_config.py
      mmetris train my_config.py
      mmetris test my_config.py work_dirs/my_config/best_mIoU_epoch_50.pth
      mmetris demo

    Without --model it is the model that ships with mmetris, which knows drawn shapes only. "mmetris COMMAND --help"
    explains a command.
    """


@mmetris_command.command(context_settings=dict(help_option_names=['-h', '--help']))
@click.argument('image', type=PATH)
@click.argument('words', type=PATH, nargs=-1, metavar='[IMAGE]... [SENTENCE]...')
@click.option(
    '--out-file', type=PATH, metavar='FILE', help='Write one picture: the image, its masks and the sentences.'
)
@click.option(
    '--out-dir',
    type=PATH,
    metavar='DIR',
    help='Write masks/*.png (0 and 1), overlays/*.jpg and predictions.json (masks in COCO run lengths).',
)
@click.option(
    '--classes',
    type=PATH,
    metavar='NAMES',
    help='Instead of sentences: give each pixel one of these classes. A name, or several separated by commas, a data '
    'set that MMSeg knows (ade20k), or a text file with a class in each line.',
)
@click.option(
    '--json', 'as_json', is_flag=True, help='Print one line of JSON for each image: masks in COCO run lengths.'
)
@click.option(
    '--batch-size',
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help='Pairs of image and sentence at a time; fewer take less memory.',
)
@_skip_option
@_overwrite_option
@_model_options
def segment(
    image: str,
    words: tuple[str, ...],
    out_file: str | None,
    out_dir: str | None,
    classes: str | None,
    as_json: bool,
    batch_size: int,
    skip_unreadable: bool,
    overwrite: bool,
    progress: bool,
    max_pixels: int | None,
    boxes: bool,
    box_threshold: float | None,
    **model: Any,
) -> None:
    """Segment in each IMAGE what each SENTENCE means, and print box and score.

    IMAGE is a file, an address (https://...) or a folder. Of several, which stand before the sentences, those behind
    the first need the ending of a picture, or a / if they are folders: another word is a sentence.

    The score is the mean probability inside the mask; the box is left, top, right, bottom in pixels of the upright
    image. A model that decides whether a sentence means anything in the picture adds its no-target score, and says "not
    in the picture" where it does not.

    \b
    Examples:                 (MODEL is the folder of a training, or a name of "mmetris models")
      one sentence, one picture
        mmetris segment photo.jpg "the dog on the left" --model MODEL --out-file dog.png
      several sentences; each gets its colour
        mmetris segment photo.jpg "the left dog" "the brown cat" --model MODEL --out-file both.png
      several pictures, or all of a folder: masks, pictures and a JSON file
        mmetris segment a.jpg b.jpg "the dog" --model MODEL --out-dir results
        mmetris segment photos/ "the dog" --model MODEL --out-dir results --skip-unreadable
      the whole picture, by class names; this model knows photographs without training, once CLIP was downloaded
        mmetris segment photo.jpg --classes "dog, cat, grass" --model clip-vitb16_training-free --out-file classes.png
      for a program
        mmetris segment photos/ "the dog" --model MODEL --json > found.jsonl
      boxes: of a model with a box head, or around the masks
        mmetris segment photo.jpg "the dog" --model MODEL --boxes --out-file dog.png
      on the CPU, with larger masks
        mmetris segment photo.jpg "the dog" --model MODEL --device cpu --threshold 0.25 --out-file dog.png
    """
    images, texts = _images_and_sentences(image, words)
    if not texts and classes is None:
        raise click.UsageError('no sentence given: mmetris segment IMAGE "the dog on the left"')
    if texts and classes is not None:
        raise click.UsageError('give sentences or --classes, not both')
    if classes is not None and (boxes or box_threshold is not None):
        raise click.UsageError('--boxes and --box-threshold are for sentences, and --classes is given')
    if out_file is not None and Path(image).is_dir():
        raise click.UsageError(f'{image} is a folder: give --out-dir instead of --out-file')
    if out_file is not None and len(images) > 1:
        raise click.UsageError(f'--out-file is for one picture, and {len(images)} are given: take --out-dir')
    closing = [] if out_dir is None else [Path(out_dir) / name for name in ('predictions.json', 'classes.json')]
    _check_free([] if out_file is None else [out_file], closing, overwrite=overwrite)
    apis = _load_apis()
    if out_file is not None:
        apis.result_files.check_image_suffix(out_file)
    inferencer = apis.RefSegInferencer(**_given(max_pixels=max_pixels), **_with_rule(model), show_progress=False)
    sources = inferencer._inputs_to_list(images)
    if classes is not None:
        inferencer.show_progress = progress and len(sources) > 1 and sys.stderr.isatty()
        result = inferencer.label_maps(
            sources,
            _class_names(classes),
            batch_size,
            out_dir=out_dir,
            return_vis=out_file is not None,
            skip_unreadable=skip_unreadable,
        )
        _check_any(len(sources), sum(labels is not None for labels in result['label_maps']))
        _print_shares(result, as_json)
        if out_file is not None:
            apis.result_files.write_image(result['visualization'][0], out_file)
        for written in (out_file, out_dir):
            if written is not None:
                click.echo(f'written: {written}', err=as_json)
        return
    rule, note, count = inferencer.no_target_rule, inferencer.note, 0
    writer = None if out_dir is None else apis.result_files.ResultWriter(out_dir, inferencer.threshold, rule, note)
    boxes = boxes or box_threshold is not None
    found = inferencer.stream(
        sources, texts, batch_size, skip_unreadable=skip_unreadable, boxes=boxes, box_threshold=box_threshold
    )
    with nullcontext() if writer is None else writer:  # Whatever stops the run, what was found is kept.
        for one in _track(found, len(sources), progress and len(sources) > 1):
            count += 1
            if as_json:
                told = _answers_as_dict(one, apis.result_files.answer_as_dict, apis.found_boxes)
                click.echo(json.dumps(told, ensure_ascii=False))
            else:
                _print_answers(one, inferencer.threshold, rule)
            overlay = None if out_file is None and writer is None else inferencer.visualize(one)
            if out_file is not None:
                apis.result_files.write_image(overlay, out_file)
            if writer is not None:
                writer.add_answers(one, overlay)
        _check_any(len(sources), count)
    if out_file is not None:
        click.echo(f'written: {out_file}', err=as_json)
    if writer is not None:
        folders = 'folders masks, overlays' if inferencer.asker.gives_masks else 'folder overlays'
        click.echo(f'written: {writer.path} and {folders} beside it', err=as_json)


def _images_and_sentences(first: str, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Which words are pictures, checked to be there: the first, and those behind it up to the first sentence.

    Raises:
        click.UsageError: If a picture stands behind a sentence.
        FileNotFoundError: If a file or folder is not there, which skipping what is unreadable does not mean.
    """
    texts = list(words)
    images = [first]
    while texts and _is_picture(texts[0]):
        images.append(texts.pop(0))
    for text in texts:
        if _is_picture(text):
            raise click.UsageError(f'{text} stands behind a sentence: pictures go before all sentences')
        if text and os.path.exists(text):  # It may be both, as "dog" beside a folder of dogs.
            kind = f'folder: {text}/ means it' if os.path.isdir(text) else 'file without the ending of a picture'
            click.echo(f'warning: {text} is taken for a sentence, and is the name of a {kind}', err=True)
    _check_there(images)
    return images, texts


def _check_there(images: Sequence[str]) -> None:
    """Stop where a file or folder is not there."""
    for name in images:
        if not _is_address(name) and not os.path.exists(name):
            kind = 'folder' if name.endswith(('/', os.sep)) else 'image'
            raise FileNotFoundError(f'{kind} not found: {name}')


def _is_picture(word: str) -> bool:
    """Whether a word is meant as a picture by its form: an address, an ending of pictures, or a path of a folder."""
    if word.endswith(('/', os.sep)):
        return ' ' not in word or os.path.isdir(word)
    if word.startswith(('./', '../', '/', os.curdir + os.sep, os.pardir + os.sep)) and os.path.exists(word):
        return True
    return _is_address(word) or Path(word).suffix.lower() in IMAGE_SUFFIXES


def _is_address(word: str) -> bool:
    return re.match(r'[a-zA-Z][a-zA-Z0-9+.-]+://', word) is not None  # image_io's


def _class_names(given: str) -> str | list[str]:
    """Names of ``--classes``; a file or a data set stays what it is."""
    if ',' not in given or os.path.isfile(given):
        return given
    return [name.strip() for name in given.strip().removesuffix(',').split(',')]


def _check_any(num_images: int, num_read: int) -> None:
    """Stop where every picture was left out: nothing was written then."""
    if num_read == 0:
        raise ValueError(
            f'none of the {num_images} images can be read' if num_images > 1 else 'the image cannot be read'
        )


def _answers_as_dict(one: dict[str, Any], as_dict: Callable, found_boxes: Any) -> dict[str, Any]:
    """One picture of :meth:`RefSegInferencer.stream` for ``--json``, in the words of predictions.json."""
    masks = one.get('masks') or [None] * len(one['texts'])
    answers = [as_dict(*row) for row in zip(one['texts'], masks, one['boxes'], one['scores'], strict=True)]
    for key, name in (('no_target_scores', 'no_target_score'), ('no_target', 'no_target')):
        for answer, value in zip(answers, one.get(key, [])):
            answer[name] = value
    note = {key: one[key] for key in ('note',) if key in one}
    height, width = one['image'].shape[:2]
    told = dict(file_name=_writable(one['name']), height=height, width=width, **note, annotations=answers)
    lists = [one[key] for key in found_boxes.BOX_LISTS if key in one]
    return dict(told, boxes=found_boxes.boxes_as_dicts(one['texts'], *lists)) if lists else told


def _writable(name: str) -> str:
    from mmetris.utils.text_files import writable

    return writable(name)


@mmetris_command.command(context_settings=dict(help_option_names=['-h', '--help']))
@click.argument('images', type=PATH, nargs=-1, required=True, metavar='IMAGE...')
@click.option(
    '--names',
    type=PATH,
    metavar='NAMES',
    help='The classes: names separated by semicolons, with commas between several names of one class; or by commas '
    'alone; or a data set that MMSeg knows (ade20k), or a text file with a class in each line. Default: those that the '
    'model was trained on.',
)
@click.option(
    '--model',
    type=PATH,
    metavar='MODEL',
    required=True,
    help='Config file of a model that classifies (projects/classification/configs), or folder of a training.',
)
@click.option(
    '--template',
    'templates',
    multiple=True,
    metavar='TEXT',
    help="Sentence with {} where the name goes; may be given again, and is averaged then. Default: the config's.",
)
@click.option(
    '--top', type=click.IntRange(1), default=3, show_default=True, metavar='K', help='So many classes are printed.'
)
@click.option('--json', 'as_json', is_flag=True, help='Print one line of JSON for each image, with all classes.')
@click.option(
    '--batch-size',
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help='Images at a time; fewer take less memory.',
)
@_skip_option
@_loading_options
@_reading_options
def classify(
    images: tuple[str, ...],
    names: str | None,
    templates: tuple[str, ...],
    top: int,
    as_json: bool,
    batch_size: int,
    skip_unreadable: bool,
    progress: bool,
    max_pixels: int | None,
    **model: Any,
) -> None:
    """Say which of the NAMES each IMAGE shows, with its probability, and what zero-shot CLIP says.

    IMAGE is a file, an address (https://...) or a folder. A config without --weights is zero-shot CLIP; the folder of a
    training has its own.

    \b
    Examples:                 (MODEL is the folder of a training of projects/classification)
      mmetris classify photo.jpg --names "cat;dog" --model MODEL
      a class that has two names
        mmetris classify photo.jpg --names "sofa, couch; armchair" --model MODEL
      all of a folder, for a program
        mmetris classify photos/ --names names.txt --model MODEL --json > found.jsonl
    """
    _check_there(images)
    apis = _load_apis()
    classifier = apis.ImageClassificationInferencer(**_given(max_pixels=max_pixels), **model)
    sources = apis.image_io.expand_folders(images)
    if not classifier.is_trained:
        click.echo('no weights are given: this is zero-shot CLIP', err=True)
    found = classifier.stream(
        sources, None if names is None else _names_of_classes(names), templates or None, batch_size, skip_unreadable
    )
    count = 0
    for one in _track(found, len(sources), progress and len(sources) > 1):
        count += 1
        if as_json:
            told = dict(file_name=_writable(one.image), name=one.name, trained=classifier.is_trained)
            told.update(probabilities=one.probabilities, zero_shot=one.zero_shot)
            click.echo(json.dumps(told, ensure_ascii=False))
            continue
        answer = f'{one.image}: {_best(one.probabilities, top)}'
        if classifier.is_trained and one.zero_shot is not None:
            answer += f'; zero-shot CLIP: {_best(one.zero_shot, top)}'
        click.echo(answer)
    _check_any(len(sources), count)


def _names_of_classes(given: str) -> str | list[str] | list[list[str]]:
    """Names of ``mmetris classify --names``; a file or a data set stays what it is."""
    if ';' not in given or os.path.isfile(given):
        return _class_names(given)
    classes = given.strip().removesuffix(';').split(';')
    return [[name.strip() for name in names.strip().removesuffix(',').split(',')] for names in classes]


def _best(probabilities: dict[str, float], top: int) -> str:
    """The first classes, with percent."""
    from mmetris.visualization.text import percent

    return ', '.join(f'{name} {percent(value)}' for name, value in list(probabilities.items())[:top])


@mmetris_command.command(context_settings=dict(help_option_names=['-h', '--help']))
@click.argument('video', type=PATH)
@click.argument('texts', nargs=-1, metavar='SENTENCE...')
@click.option(
    '--out-file',
    type=PATH,
    metavar='FILE',
    help=f'Video to write: {", ".join("." + name for name in VIDEO_FORMATS)}.',
)
@click.option(
    '--out-dir',
    type=PATH,
    metavar='DIR',
    help='Write masks, pictures and predictions.json of the frames that were looked at, as "mmetris segment" does.',
)
@click.option(
    '--every',
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help='Look at every so-manieth frame; those between show the masks of the one before.',
)
@click.option('--max-frames', type=click.IntRange(1), metavar='N', help='Stop after so many frames.')
@_overwrite_option
@_model_options
def video(
    video: str,
    texts: tuple[str, ...],
    out_file: str | None,
    out_dir: str | None,
    every: int,
    max_frames: int | None,
    overwrite: bool,
    progress: bool,
    max_pixels: int | None,
    boxes: bool,
    box_threshold: float | None,
    **model: Any,
) -> None:
    """Segment in each frame of VIDEO what each SENTENCE means, and write a video of it.

    Frames are looked at one by one: a mask may jump from one object to another. The frame rate and the sound are those
    of VIDEO. Files .mp4 and .webm play in browsers. Ctrl-C completes the video with the frames until then; a second one
    leaves no file.

    \b
    Examples:
      mmetris video clip.mp4 "the red car" --model MODEL --out-file car.mp4
      every third frame only, which is faster
        mmetris video clip.mp4 "the red car" "the cyclist" --model MODEL --every 3 --out-file traffic.webm
      masks and pictures of the frames
        mmetris video clip.mp4 "the red car" --model MODEL --every 10 --out-dir frames
    """
    if not texts:
        raise click.UsageError('no sentence given: mmetris video VIDEO "the red car" --out-file car.mp4')
    for text in texts:
        if Path(text).suffix.lower().lstrip('.') in VIDEO_FORMATS and ' ' not in text or os.path.isfile(text):
            raise click.UsageError(f'one video at a time: {text} stands where the sentences do')
    if out_file is None and out_dir is None:
        raise click.UsageError('give --out-file for a video, or --out-dir for the frames')
    if out_file is not None and Path(out_file).suffix.lower().lstrip('.') not in VIDEO_FORMATS:
        endings = ', '.join(f'.{name}' for name in VIDEO_FORMATS)
        raise click.UsageError(f'--out-file {out_file}: write a video as {endings}')
    closing = [] if out_dir is None else [Path(out_dir) / 'predictions.json']
    _check_free([] if out_file is None else [out_file], closing, overwrite=overwrite)
    apis = _load_apis()
    if out_file is not None:
        apis.videos.encoder_of(out_file)
    apis.videos.VideoReader(video)  # Before the model, which takes long.
    predictor = apis.RefSegPredictor(**_given(max_pixels=max_pixels), **_with_rule(model))
    with _completes_on_signals() as received:
        report = apis.videos.segment_video(
            predictor,
            video,
            texts,
            out_file,
            out_dir,
            every,
            max_frames,
            should_stop=lambda: bool(received),
            track=lambda frames, total: _track(frames, total, progress),
            boxes=boxes or box_threshold is not None,
            box_threshold=box_threshold,
        )
    if out_file is not None:
        click.echo(f'written: {out_file}, {report.num_frames} frames')
    if out_dir is not None:
        folders = 'folders masks, overlays' if predictor.asker.gives_masks else 'folder overlays'
        click.echo(f'written: {closing[0]} and {folders} beside it, {report.num_asked} frames')
    if received:
        click.echo('stopped', err=True)
        sys.exit(128 + received[0])


@contextmanager
def _completes_on_signals() -> Iterator[list[int]]:
    """Within it the first SIGINT or SIGTERM is noted in the list, for whoever completes his work then; a second one
    ends the work with nothing left behind."""
    received: list[int] = []

    def note(number: int, _: Any) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        os.write(2, b'\nstopping: the files are completed\n')

    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@mmetris_command.command(context_settings=dict(help_option_names=['-h', '--help']))
def models() -> None:
    """List the models that --model knows by name.

    Those without weights are recipes: train them (tools/train.py), then give the folder of the training as --model.
    Those that can be fetched are by "mmetris download NAME".
    """
    apis = _load_apis()
    root = apis.model_zoo.package_root()
    entries = list(apis.model_zoo.indexed_models())
    width = max(len(entry['Name']) for entry in entries)
    for entry in entries:
        click.echo(f'{entry["Name"]:{width}}  {_state(apis, entry, root)}')


def _state(apis: _Apis, entry: dict[str, Any], root: Path) -> str:
    """Where the weights of an entry of the model index are."""
    weights, published = entry.get('Weights'), apis.published.published_of(entry, root)
    if weights is not None:
        if apis.downloads.scheme_of(weights) is not None:
            return f'fetched from {weights} when it is used'
        return 'ready' if (root / weights).is_file() else f'weights are missing: {root / weights}'
    if published is None and entry['Metadata'].get('Training Free'):
        missing = apis.fetching.missing_sources(root / entry['Config'])
        return f'not here yet: mmetris download {entry["Name"]} ({missing[0]})' if missing else 'ready: not trained'
    if published is None:
        return 'no weights: train it'
    if apis.published.converted_files(published) is not None:
        return f'ready: converted from {published.repo}'
    file = published.file if published.seen else f'{published.file}, a supposed name'
    file = 'name the file with --file' if published.file is None else file
    return f'not here yet: mmetris download {published.name} ({published.repo}, {file})'


@mmetris_command.command(context_settings=dict(help_option_names=['-h', '--help']))
@click.argument('name')
@click.option('--file', metavar='PATH', help='Another file of the repo than the one that is known for NAME.')
@click.option('--revision', default='main', show_default=True, metavar='REV', help='Branch, tag or commit of the repo.')
@click.option(
    '--local', type=PATH, metavar='FILE', help='Convert this file, which was fetched elsewhere; the hub is not asked.'
)
@click.option('--encoders', is_flag=True, help='Fetch what training needs as well: files of CLIP and DINOv2.')
@click.option(
    '--set',
    'options',
    multiple=True,
    metavar='KEY=VALUE',
    help='What no shape tells, where it is not as in the published models: head_heads, align_heads, image_heads, '
    'text_heads, out_blocks (4,8), context_length.',
)
def download(
    name: str, file: str | None, revision: str, local: str | None, encoders: bool, options: tuple[str, ...]
) -> None:
    """Fetch weights from the network, check them, convert them once, and keep them.

    NAME is a model ("mmetris models" lists them), a config file, or an encoder, such as clip-vitb16 or
    dinov2-vitl14_reg. Of a model that others published weights of, these are fetched from Hugging Face; of any other
    the pretrained encoders that its training starts from.

    HF_HOME says where files are kept, HF_ENDPOINT which server is asked, HF_HUB_OFFLINE=1 that none is. An interrupted
    download goes on where it stopped.

    \b
    Examples:
      mmetris download detris_base_refcoco
      mmetris download detris_large_mixed --file NAME_OF_THE_FILE
      mmetris download clip-vitb16
    """
    apis = _load_apis()
    if not sys.stderr.isatty():
        apis.hide_progress_bars()
    apis.fetching.download(name, file, revision, local, encoders, _parsed(options), say=click.echo)


def _parsed(options: Sequence[str]) -> dict[str, Any]:
    """Whole numbers, or several with commas in between, by their keys."""
    found: dict[str, Any] = {}
    for option in options:
        key, _, value = option.partition('=')
        try:
            numbers = [int(number) for number in value.split(',')]
        except ValueError:
            raise click.UsageError(f'--set {option}: a whole number is needed, or several as in 4,8') from None
        found[key] = numbers[0] if len(numbers) == 1 else tuple(numbers)
    return found


@mmetris_command.command(context_settings=dict(help_option_names=['-h', '--help']))
@click.argument('model', type=PATH)
@click.argument('repo', required=False)
@click.option('--weights', type=PATH, metavar='FILE', help='Checkpoint. Default: the one that belongs to the model.')
@click.option(
    '--out-dir', type=PATH, metavar='DIR', help='Write the files here and send nothing, to look at them first.'
)
@click.option(
    '--score', 'scores', multiple=True, metavar='DATA:METRIC=X', help='"RefCOCO val:mIoU=70.5", for the card.'
)
@click.option('--dataset', 'datasets', multiple=True, metavar='NAME', help='What it was trained on, for the card.')
@click.option('--license', metavar='NAME', help='As the hub writes it: apache-2.0.')
@click.option('--full', is_flag=True, help="Send the frozen encoders' weights, too: a converted model needs it.")
@click.option('--private', is_flag=True, help='Make a private repo, if there is none yet.')
@click.option('--revision', metavar='REV', help='Branch to send to. Default: main.')
@click.option('--create-pr', is_flag=True, help='Propose it as a pull request.')
def push(
    model: str,
    repo: str | None,
    weights: str | None,
    out_dir: str | None,
    scores: tuple[str, ...],
    datasets: tuple[str, ...],
    license: str | None,
    full: bool,
    private: bool,
    revision: str | None,
    create_pr: bool,
) -> None:
    """Send what was tuned of MODEL to REPO (owner/name) on Hugging Face's hub, with its config and a card.

    The frozen encoders stay here (but for --full), and so do data sets, folders and the rest of the config. Log in
    before ("hf auth login", or HF_TOKEN).

    \b
    Examples:
      mmetris push work_dirs/etris_r101_refcoco me/etris-r101 --dataset RefCOCO --score "RefCOCO val:mIoU=70.5"
      mmetris push work_dirs/etris_r101_refcoco --out-dir look_at_it_first
    """
    if (repo is None) == (out_dir is None):
        raise click.UsageError('give REPO to send it to, or --out-dir DIR to write the files only')
    found: dict[str, dict[str, float]] = {}
    for score in scores:
        data, _, rest = score.rpartition(':')
        metric, _, value = rest.partition('=')
        try:
            found.setdefault(data, {})[metric] = float(value)
        except ValueError:
            raise click.UsageError(f'--score {score}: "RefCOCO val:mIoU=70.5" is the form') from None
    hub = _load_apis().hub
    told: dict[str, Any] = dict(weights=weights, scores=found, datasets=datasets, license=license, full=full)
    if repo is None:
        click.echo(f'written: {hub.save_pretrained(model, out_dir, **told)}')
    else:
        sent = hub.push_to_hub(model, repo, **told, private=private or None, revision=revision, create_pr=create_pr)
        click.echo(f'sent: {sent}')


class _Tool(click.Command):
    """A command whose words all go to one of the package's scripts, ``--help`` and ``--`` among them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.params['arguments'] = tuple(args)
        return []


def _run_tool(script: str, arguments: Sequence[str]) -> NoReturn:
    """Become one of the package's scripts: this process is replaced, so that signals and its status are the script's.

    Args:
        script: Its place in the checkout, or in ``mmetris/.mim`` where the package is installed.
        arguments: Its command line.

    Raises:
        FileNotFoundError: If it is in neither.
    """
    root = find_root('model-index.yml', script)
    if root is None:
        raise FileNotFoundError(
            f'{script} is neither beside {PACKAGE} nor in {PACKAGE / ".mim"}; install mmetris again'
        )
    env = dict(os.environ)
    if root == PACKAGE.parent:  # A checkout, which may be found by the current folder alone.
        env['PYTHONPATH'] = os.pathsep.join(filter(None, [str(root), env.get('PYTHONPATH')]))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, str(root / script), *arguments], env)


@mmetris_command.command(cls=_Tool)
@click.argument('arguments', nargs=-1, type=PATH, metavar='CONFIG [OPTION]...')
def train(arguments: tuple[str, ...]) -> None:
    """Train a model from a config.

    It is tools/train.py with the same arguments; on several GPUs, tools/dist_train.sh.
    """
    _run_tool('tools/train.py', arguments)


@mmetris_command.command(cls=_Tool)
@click.argument('arguments', nargs=-1, type=PATH, metavar='CONFIG CHECKPOINT [OPTION]...')
def test(arguments: tuple[str, ...]) -> None:
    """Score a checkpoint on the data of its config.

    It is tools/test.py with the same arguments; on several GPUs, tools/dist_test.sh.
    """
    _run_tool('tools/test.py', arguments)


@mmetris_command.command(cls=_Tool)
@click.argument('arguments', nargs=-1, type=PATH, metavar='MODEL [OPTION]...')
def export(arguments: tuple[str, ...]) -> None:
    """Write a model as ONNX or torch.export files.

    It is tools/deployment/export.py with the same arguments.
    """
    _run_tool('tools/deployment/export.py', arguments)


@mmetris_command.command(cls=_Tool)
@click.argument('arguments', nargs=-1, type=PATH, metavar='[OPTION]...')
def demo(arguments: tuple[str, ...]) -> None:
    """Serve the web page on this machine.

    It is projects/gradio_demo/app.py with the same arguments, and needs gradio.
    """
    _run_tool('projects/gradio_demo/app.py', arguments)


@mmetris_command.group(cls=_Group, context_settings=dict(help_option_names=['-h', '--help']))
def data() -> None:
    """Check data before a training, and bring in what annotation tools export.

    \b
    Examples:
      mmetris data check configs/etris/etris_vitb16_table.py --sheet samples.png
      mmetris data import cvat annotations.xml data/mine --val 0.1
    """


@data.command(context_settings=dict(help_option_names=['-h', '--help']))
@click.argument('config', type=PATH)
@click.option('--decode', is_flag=True, help='Decode every picture, and compare their contents.')
@click.option('--sheet', type=PATH, metavar='FILE', help='Write one picture with samples: image, sentence and mask.')
@click.option('--samples', type=click.IntRange(1), default=12, show_default=True, help='How many, with --sheet.')
@click.option('--json', 'as_json', is_flag=True, help='Print the findings as JSON.')
@click.option('--cfg-options', multiple=True, metavar='KEY=VALUE', help='Override a setting; may be given again.')
@_overwrite_option
def check(
    config: str,
    decode: bool,
    sheet: str | None,
    samples: int,
    as_json: bool,
    cfg_options: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Read all data of CONFIG without its model: counts, long sentences, empty masks, repetitions, leaked images.

    Every split is read, those that the config does not use too. Exit status 1 if something would stop a training or a
    test; 0 with warnings.

    \b
    Examples:
      what is in the data, and what is wrong with it
        mmetris data check configs/etris/etris_vitb16_table.py
      decode all pictures, and look at some samples
        mmetris data check my_config.py --decode --sheet samples.png
      for a program, of data in another place
        mmetris data check my_config.py --json --cfg-options train_dataloader.dataset.data_root=data/mine/
    """
    _check_free([] if sheet is None else [sheet], overwrite=overwrite)
    with redirect_stdout(sys.stderr):  # Packages print what is no finding.
        with _ends_at_once():
            from mmetris.apis import result_files
            from mmetris.apis.data_check import check_data
            from mmetris.visualization.contact_sheet import make_contact_sheet

        if sheet is not None:
            result_files.check_image_suffix(sheet)
        report = check_data(_read_config(config, cfg_options), decode, samples if sheet is not None else 0)
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=1))
    else:
        _print_report(report)
    if sheet is not None and report.samples:
        result_files.write_image(make_contact_sheet(report.samples, 3, cell_width=480), sheet)
        click.echo(f'written: {sheet}', err=as_json)
    if report.num_errors:
        sys.exit(1)


@data.command('import', context_settings=dict(help_option_names=['-h', '--help']))
@click.argument('format', type=click.Choice(['labelme', 'cvat', 'coco']))
@click.argument('source', type=PATH)
@click.argument('out', type=PATH)
@click.option('--images', type=PATH, metavar='DIR', help='Folder of the pictures. Default: where the tool puts them.')
@click.option(
    '--text',
    metavar='NAME',
    help='Field or attribute with the sentence; "label" is the name of the class. Default: sentence, text, '
    'expression, referring_expression, caption or description; for LabelMe then the label.',
)
@click.option('--separator', metavar='TEXT', help='Between several sentences of a region, beside the end of a line.')
@click.option('--table', metavar='NAME', default='sentences.csv', show_default=True, help='.csv, .tsv or .jsonl')
@click.option('--split', metavar='NAME', help="Split of all pictures. Default: CVAT's subset, or train.")
@click.option('--val', type=click.FloatRange(0, 1), default=0, metavar='SHARE', help='Share of the pictures for val.')
@click.option('--test', type=click.FloatRange(0, 1), default=0, metavar='SHARE', help='Share for test.')
@click.option('--overwrite', is_flag=True, help='Replace files that are there. Default: stop, with nothing written.')
def import_(
    format: str,
    source: str,
    out: str,
    images: str | None,
    text: str | None,
    separator: str | None,
    table: str,
    split: str | None,
    val: float,
    test: float,
    overwrite: bool,
) -> None:
    """Make OUT/masks and a table of sentences of an export: LabelMe's folder, CVAT's "CVAT for images 1.1", or COCO.

    Pictures stay where they are, as they are. A sentence means all regions of a picture that it is written to; regions
    of one group are one object. OUT is what TableRefDataset reads (docs/data.md).

    \b
    Examples:
      LabelMe: sentences in "description", or as labels
        mmetris data import labelme photos/ data/mine --val 0.1
      CVAT: sentences in the attribute "phrase"
        mmetris data import cvat annotations.xml data/mine --text phrase
      COCO: sentences in the attribute "caption", several with | between them
        mmetris data import coco instances.json data/mine --images photos/ --separator "|"
    """
    if val + test > 1:
        raise click.UsageError(f'--val {val:g} and --test {test:g} are more than all pictures')
    from mmetris.datasets.importing import import_export

    shares = {name: share for name, share in (('val', val), ('test', test)) if share}
    export, rows = import_export(format, source, out, images, text, separator, table, split, shares, overwrite)
    for reason, count in export.left_out.items():
        first = export.first_left_out[reason]
        click.echo(f'warning: {count} regions {reason} are left out; the first: {first}', err=True)
    splits = ', '.join(f'{count} in {name}' for name, count in sorted(rows.sentences.items()))
    click.echo(f'{rows.pictures} pictures, {rows.masks} masks, {sum(rows.sentences.values())} sentences ({splits})')
    click.echo(f'written: {Path(out) / table} and {Path(out) / "masks"}. In a config:')
    folder = Path(os.path.relpath(export.folder_of_images(), out))
    folder = export.folder_of_images().absolute() if '..' in folder.parts else folder
    prefix = f"dict(img_path='{folder.as_posix()}/', seg_map_path='masks/')"
    root = f"data_root='{Path(out).as_posix()}/', ann_file='{table}'"
    click.echo(f"    dataset=dict(type='TableRefDataset', {root}, data_prefix={prefix})")


def _read_config(path: str, options: tuple[str, ...]) -> Any:
    """A config by the tools' own reader, whose complaints are one line here."""
    import argparse

    from mmetris.utils.command_line import add_config_arguments, load_config

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise click.UsageError(message)

    parser = Parser(add_help=False)
    add_config_arguments(parser)
    given = ['--cfg-options', *options] if options else []
    return load_config(parser, parser.parse_args([path, *given]))


def _print_report(report: Any) -> None:
    from prettytable import PrettyTable

    for name, splits in report.splits.items():
        table = PrettyTable(
            ['split', 'objects', 'sentences', 'images', 'no target', 'empty masks', 'longest', 'cut', 'pictures read']
        )
        for split, found in splits.items():
            shown = ['-' if value is None else value for value in (found.cut, found.decoded)]
            counts = found.objects, found.sentences, found.images, found.no_target, found.empty_masks, found.longest
            table.add_row([split, *counts, *shown])
        click.echo(f'{name}\n{table.get_string()}' if splits else name)
    for problem in report.problems:
        click.echo(f'{problem.level}: {problem.where}: {problem.message}')
    totals = dict(error=report.num_errors, warning=len(report.problems) - report.num_errors)
    click.echo(', '.join(f'{count} {level}{"s" * (count != 1)}' for level, count in totals.items()))


class _Apis:
    """What the commands need of the package; imported when a command runs, so that --help answers at once."""

    def __init__(self) -> None:
        from huggingface_hub.utils import disable_progress_bars

        import mmetris.datasets  # noqa: F401
        from mmetris.apis import (
            ImageClassificationInferencer,
            RefSegInferencer,
            RefSegPredictor,
            fetching,
            hub,
            model_zoo,
            published,
            result_files,
            videos,
        )
        from mmetris.structures import found_boxes
        from mmetris.utils import checkpoint_io, downloads, image_io

        self.RefSegInferencer, self.RefSegPredictor = RefSegInferencer, RefSegPredictor
        self.model_zoo, self.result_files, self.checkpoint_io = model_zoo, result_files, checkpoint_io
        self.fetching, self.published, self.downloads, self.hub = fetching, published, downloads, hub
        self.videos, self.hide_progress_bars = videos, disable_progress_bars
        self.found_boxes, self.image_io = found_boxes, image_io
        self.ImageClassificationInferencer = ImageClassificationInferencer


def _load_apis() -> _Apis:
    with _ends_at_once():
        return _Apis()


def _check_free(files: Sequence[str | Path], closing: Sequence[Path] = (), *, overwrite: bool) -> None:
    """Stop where a file would be replaced, the picture itself perhaps, or the results of an earlier run; and where none
    could be written, since a file stands in the place of a folder or the other way round."""
    for file in map(Path, (*files, *closing)):
        nearest = next(folder for folder in file.parents if folder.exists())
        if not nearest.is_dir():
            raise click.UsageError(f'{file} cannot be written: {nearest} is a file, not a folder')
        if file.is_dir() and overwrite:
            raise click.UsageError(f'{file} cannot be written: it is a folder')
    if overwrite:
        return
    for path in (*files, *closing):
        if Path(path).exists():
            kind = f'{Path(path).parent} has results' if path in closing else f'{path} is there'
            raise click.UsageError(f'{kind} already: give another name, or --overwrite to replace what is there')


def _given(**options: Any) -> dict[str, Any]:
    """Options that were given."""
    return {key: value for key, value in options.items() if value is not None}


def _with_rule(model: dict[str, Any]) -> dict[str, Any]:
    """Options of a model, those on "not in the picture" as its ``no_target``."""
    by, threshold = model.pop('no_target_by'), model.pop('no_target_threshold')
    return dict(model, no_target=threshold if by is None else dict(by=by, **_given(threshold=threshold)))


def _track(items: Any, total: int, show: bool) -> Iterator[Any]:
    """The items, with a bar on the standard error if that is a terminal; a piped standard output stays as it is."""
    if not show or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), redirect_stdout=sys.stdout.isatty()) as bar:
        yield from bar.track(items, description='Inference', total=total or None)


def _print_answers(one: dict[str, Any], threshold: float, rule: Any = None) -> None:
    width = max(len(text) for text in one['texts'])
    absence = [None] * len(one['texts']) if rule is None else one['no_target_scores']
    absent = [False] * len(one['texts']) if rule is None else one['no_target']
    rows = zip(one['texts'], one['boxes'], one['scores'], one['is_empty'], absence, absent, strict=True)
    for index, (text, box, score, is_empty, no_target_score, is_absent) in enumerate(rows):
        answer = 'nothing found' if 'masks' not in one else f'nothing found: no pixel is above {threshold:g}'
        if is_absent:
            answer = 'not in the picture'
        elif not is_empty:
            answer = _score_and_box(score, box)
        if 'pred_boxes' in one and 'masks' not in one and not is_empty:
            answer = '; '.join(_score_and_box(*pair) for pair in _scored_boxes(one, index))
        elif 'pred_boxes' in one and not is_absent:
            answer += f'; {_boxes_in_words(one, index)}'
        if rule is not None:
            answer += f', no-target score {no_target_score:.2f} ({rule.by}, threshold {rule.threshold:g})'
        click.echo(f'{one["name"]}: {text:{min(width, 60)}}  {answer}')


def _score_and_box(score: float, box: Any) -> str:
    return f'score {score:.2f}, box {" ".join(f"{edge:.0f}" for edge in box)}'


def _scored_boxes(one: dict[str, Any], index: int) -> Iterator[tuple[float, Any]]:
    """Scores and boxes of one sentence."""
    return zip(one['pred_box_scores'][index], one['pred_boxes'][index])


def _boxes_in_words(one: dict[str, Any], index: int) -> str:
    """What ``--boxes`` adds behind the mask's answer."""
    pairs = list(_scored_boxes(one, index))
    if one['box_source'][index] == 'mask':
        return 'the box is that around the mask' if pairs else 'no box'
    return f'box head: {"; ".join(_score_and_box(*pair) for pair in pairs) or "no box"}'


def _print_shares(result: dict[str, list], as_json: bool) -> None:
    from mmetris.visualization.text import percent

    notes = result.get('notes') or [None] * len(result['images'])
    for name, labels, note in zip(result['images'], result['label_maps'], notes, strict=True):
        if labels is None:
            continue
        shares = {text: float((labels == index).mean()) for index, text in enumerate(result['classes'])}
        if as_json:
            size = dict(zip(('height', 'width'), labels.shape))
            told = dict(file_name=_writable(name), **size, **_given(note=note), shares=shares)
            click.echo(json.dumps(told, ensure_ascii=False))
            continue
        largest_first = sorted(shares.items(), key=lambda item: -item[1])
        found = [f'{text} {percent(share)}' for text, share in largest_first if share]
        click.echo(f'{name}: {", ".join(found) or "no class found"}')


if __name__ == '__main__':
    main()
