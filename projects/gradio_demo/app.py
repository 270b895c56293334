"""A web page to try a model on: load a picture, type sentences or class names, see the masks, move the threshold.

python projects/gradio_demo/app.py
"""

from __future__ import annotations

import argparse
import functools
import html
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# The page talks to nobody but its visitor: no telemetry, no look for new versions. Read when gradio is imported. Only a
# shared model that is asked for by its name is fetched.
os.environ.setdefault('GRADIO_ANALYTICS_ENABLED', 'False')
MODELS_VARIABLE = 'MMETRIS_MODELS'
if 'hf://' not in ' '.join([*sys.argv, os.environ.get(MODELS_VARIABLE, '')]):
    os.environ.setdefault('HF_HUB_OFFLINE', '1')

try:
    import gradio as gr
except ImportError:
    sys.exit(f'error: this page needs gradio: pip install -r {Path(__file__).with_name("requirements.txt")}')

from session import (  # noqa: E402
    CLASSES,
    MAX_CLICKS,
    SENTENCES,
    THUMBNAIL_SIDE,
    Answers,
    ClassAnswers,
    ClassPredictor,
    ClassRow,
    Limits,
    Models,
    Question,
    Row,
    Session,
    shrink,
)

from mmetris.apis import RefSegPredictor  # noqa: E402
from mmetris.datasets.shapes import draw_sample, render  # noqa: E402
from mmetris.models.decode_heads import NoTargetRule  # noqa: E402
from mmetris.utils.image_io import read_image  # noqa: E402
from mmetris.utils.text_files import read_text  # noqa: E402
from mmetris.visualization.palette import color_of, letter_color_on  # noqa: E402
from mmetris.visualization.text import NOT_IN_PICTURE, NOTHING_FOUND, percent  # noqa: E402

TITLE = 'Referring image segmentation'
INTRODUCTION = 'Load a picture and say what to segment: each sentence gets its own mask. Ctrl+Enter asks.'
DEMO_NOTE = (
    'This model knows **drawn shapes** only (circles, squares, rings... in eight colours): take an example. '
    'For photographs start the page with a model that was trained on them (`--model`).'
)
HINTS = {
    SENTENCES: ('Sentences, one a line', 'the dog on the left\nthe brown cat'),
    CLASSES: ('Class names, by commas or one a line', 'dog, cat, grass'),
}
LABELS = {'belongs to it': 1, 'does not': 0}
SESSION_SECONDS = 3600  # a visitor who leaves frees the memory after so long
SESSIONS = 16  # of so many visitors at most answers are kept, some 200 MB each at the limits; the oldest go
UNSEEN_NUMBER = '<span class="unseen">number</span>'  # for screen readers
NUM_DRAWN = 4  # examples of a model of Shapes
PICTURES = ('.jpg', '.jpeg', '.png', '.webp')
PHONE = 'max-width: 760px'
CSS = f"""
footer {{display: none !important}}
#message .message {{padding: 8px 12px; border-radius: 8px; border: 1px solid; white-space: pre-line; font-size: 14px}}
#message .info {{background: #fff7e6; border-color: #e69f00; color: #5c3d00}}
#message .error {{background: #fdecea; border-color: #d55e00; color: #6b1d00}}
.dark #message .info {{background: #33270d; color: #ffdf9e}}
.dark #message .error {{background: #3a1a0d; color: #ffc9ad}}
#message .html-container, #answers .html-container {{padding: 0}}
#message .seconds {{font-size: 13px; color: var(--body-text-color-subdued)}}
#answers {{overflow-x: auto}}
#answers table {{width: 100%; border: 0; border-collapse: collapse; font-size: 14px}}
#answers td, #answers th {{padding: 4px 8px; text-align: left; white-space: nowrap; border: 0; font-weight: normal}}
#answers th {{color: var(--body-text-color-subdued)}}
#answers tr {{border: 0; border-bottom: 1px solid var(--border-color-primary)}}
#answers .text {{width: 100%; min-width: 120px; white-space: normal; overflow-wrap: anywhere}}
#answers .number {{text-align: right}}
.unseen {{position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%)}}
#answers .chip {{display: inline-block; min-width: 26px; border-radius: 5px; text-align: center}}
#answers .chip {{padding: 0 4px; font-size: 19px; line-height: 24px; font-weight: bold}}
@media ({PHONE}) {{
  #heading h1 {{font-size: 18px; margin: 0}}
  #heading p, #note p {{font-size: 13px; line-height: 1.4; margin: 0}}
  #answers .box {{white-space: normal}}
  #answers td, #answers th {{padding: 4px}}
  #picture {{height: 220px !important}}
  /* The answer takes the place on top as soon as there is one. */
  #outputs:has(#result img, #message .message) {{order: -1}}
}}
"""
# What gradio leaves out: a key for the button, a language, and what is shown in words for who cannot see it.
SCRIPT = """
() => {
  document.documentElement.lang = 'en';
  document.addEventListener('keydown', event => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey) && event.target.closest('#text')) {
      event.preventDefault();
      document.querySelector('#segment').click();
    }
  });
  document.getElementById('message').setAttribute('role', 'status');
  const describe = () => {
    const texts = [...document.querySelectorAll('#answers td.text')].map(cell => cell.innerText);
    const found = document.querySelector('#answers table.classes') ? 'classes, the best first' : 'masks of';
    const names = {picture: 'The picture that was loaded', result: `The picture with ${found}: ${texts.join('; ')}`};
    for (const [id, name] of Object.entries(names))
      for (const image of document.querySelectorAll(`#${id} img`)) if (image.alt !== name) image.alt = name;
    for (const [id, name] of [['picture', 'Picture: load a file'], ['threshold', 'Threshold']])
      for (const input of document.querySelectorAll(`#${id} input:not([aria-label])`))
        input.setAttribute('aria-label', name);
    for (const button of document.querySelectorAll('#examples button, #history button')) {
      const name = button.innerText.trim();
      if (name && button.getAttribute('aria-label') !== name) button.setAttribute('aria-label', name);
      for (const image of button.querySelectorAll('img')) if (image.alt) image.alt = '';
    }
  };
  new MutationObserver(describe).observe(document.body, {subtree: true, childList: true});
  describe();
}
"""
SHOW_RESULT = f"""
() => {{ if (matchMedia('({PHONE})').matches) window.scrollTo({{top: 0}}); }}
"""


def theme() -> gr.themes.Base:
    """gradio's own, with letters that stand out enough from what is behind them (WCAG 2.2: 4.5 to 1)."""
    blue, darker = '#0072b2', '#005a8c'
    fill = dict(button_primary_background_fill=blue, button_primary_background_fill_hover=darker)
    ink = dict(body_text_color_subdued='*neutral_600', block_info_text_color='*neutral_600')
    dark = dict.fromkeys((f'{name}_dark' for name in ink), '*neutral_300')
    return gr.themes.Default(primary_hue='blue').set(
        **fill, **{f'{name}_dark': value for name, value in fill.items()}, **ink, **dark
    )


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description='Web page: segment what sentences mean')
    parser.add_argument(
        '--model',
        action='append',
        help='config, name of the model index, folder of a training or hf://owner/name; may be given again, and the '
        "visitor chooses. Default: what the environment variable MMETRIS_MODELS lists, or the demo's",
    )
    parser.add_argument('--weights', help='checkpoint of a single model; default the one that belongs to it')
    parser.add_argument(
        '--examples',
        type=Path,
        metavar='DIR',
        help='pictures to offer; NAME.txt beside NAME.jpg has sentences for it, one a line',
    )
    parser.add_argument('--device', help='cpu, cuda:0, ...; default a GPU if there is one')
    parser.add_argument(
        '--host',
        default=os.environ.get('GRADIO_SERVER_NAME', '127.0.0.1'),
        help='address to listen at; default that of GRADIO_SERVER_NAME, or 127.0.0.1, this machine only. 0.0.0.0 lets '
        'everybody in who reaches this machine: the page asks for no password',
    )
    parser.add_argument('--port', type=int, help='default the first free one from 7860')
    parser.add_argument(
        '--max-pixels',
        type=int,
        default=Limits().max_pixels,
        metavar='N',
        help='largest picture, width times height; default 16777216',
    )
    parser.add_argument(
        '--max-megabytes', type=int, default=Limits().max_megabytes, metavar='N', help='largest file; default 20'
    )
    parser.add_argument('--open', action='store_true', help='open the page in the browser')
    return parser


def show_message(text: str, kind: str = 'info', seconds: str = '') -> str:
    """HTML of the box for messages, none for an empty text, and behind it what the answer took."""
    box = f'<div class="message {kind}">{html.escape(text)}</div>' if text else ''
    return box + (f'<div class="seconds">{html.escape(seconds)}</div>' if seconds else '')


def describe_rule(rule: NoTargetRule | None) -> str:
    """When a sentence is answered by "not in the picture", to be put behind what the slider does."""
    if rule is None:
        return ''
    return f'; none does where the no-target score ({rule.by}) is {rule.threshold:g} or more: not in the picture'


def describe_seconds(answers: Answers | ClassAnswers) -> str:
    """What picture and sentences took."""
    kind = 'class name' if answers.by_names else 'sentence'
    count = f'{len(answers.texts)} {kind}{"" if len(answers.texts) == 1 else "s"}'
    return f'{count}: {answers.asking_seconds:.2f} s; the picture: {answers.encoding_seconds:.2f} s, once'


def caption_of(text: str, otherwise: str = '') -> str:
    """The first line of sentences, and how many more there are."""
    first, *others = text.strip().split('\n')
    return (f'{first} +{len(others)}' if others else first) or otherwise


def takes_clicks(predictor: RefSegPredictor | ClassPredictor) -> bool:
    """Whether clicks correct the masks of a model."""
    return getattr(predictor.model, 'click_head', None) is not None


def knows_shapes(model: str) -> bool:
    """Whether a model was trained on drawn pictures, by its name."""
    return 'shapes' in model


def show_table(rows: list[Row], with_scores: bool) -> str:
    """HTML of the table below the picture."""
    heads = ['', 'sentence', 'score', 'box (x, y, x, y)', 'share'] if with_scores else ['', 'class', 'share']
    decides = any(row.no_target_score is not None for row in rows)
    if decides:
        heads.append('no-target score')
    lines = [''.join(f'<th scope="col">{head or UNSEEN_NUMBER}</th>' for head in heads)]
    for row in rows:
        cells = [chip_of(row.number), f'<td class="text">{html.escape(row.text)}</td>']
        if with_scores:
            cells.append(f'<td class="number">{"–" if row.score is None else percent(row.score)}</td>')
            empty = NOT_IN_PICTURE if row.no_target else NOTHING_FOUND
            cells.append(f'<td class="box">{empty if row.box is None else ", ".join(map(str, row.box))}</td>')
        cells.append(f'<td class="number">{percent(row.share)}</td>')
        if decides:
            cells.append(f'<td class="number">{row.no_target_score:.2f}</td>')
        lines.append(''.join(cells))
    return f'<table>{"".join(f"<tr>{line}</tr>" for line in lines)}</table>' if rows else ''


def show_classes(rows: list[ClassRow]) -> str:
    """HTML of the table below the picture, of a model that names its class."""
    with_clip = any(row.zero_shot is not None for row in rows)
    heads = ['', 'class', 'probability', *(['zero-shot CLIP'] if with_clip else [])]
    lines = [''.join(f'<th scope="col">{head or UNSEEN_NUMBER}</th>' for head in heads)]
    for row in rows:
        values = [row.probability, *([row.zero_shot] if with_clip else [])]
        cells = [chip_of(row.number), f'<td class="text">{html.escape(row.text)}</td>']
        cells += [f'<td class="number">{percent(value)}</td>' for value in values]
        lines.append(''.join(cells))
    return f'<table class="classes">{"".join(f"<tr>{line}</tr>" for line in lines)}</table>'


def chip_of(number: int) -> str:
    """The cell with the number of a sentence or class, in its colour."""
    color = color_of(number)
    style = f'background: rgb{color}; color: rgb{letter_color_on(color)}'
    return f'<td><span class="chip" style="{style}">{number + 1}</span></td>'


def without_traceback(step: Callable) -> Callable:
    """Turn whatever goes wrong into a message for the page; a programming error also goes to the terminal.

    Args:
        step: Returns values of the page's outputs, the message first.

    Returns:
        The same with a dict as result: that of ``step``, or the message alone.
    """

    @functools.wraps(step)  # gradio reads its types: an event is passed to who asks for one.
    def run(self: Page, *inputs: Any) -> dict:
        try:
            return step(self, *inputs)
        except (ValueError, FileNotFoundError) as error:
            text = str(error)
        except MemoryError:
            text = 'The memory of this machine does not suffice for that. Take a smaller picture or fewer sentences.'
        except Exception:
            traceback.print_exc()
            text = 'Something went wrong on the side of the server; its terminal says what.'
        return self.nothing_but(show_message(text, 'error'))

    return run


class Example(NamedTuple):
    """A picture to try, with something to ask.

    Attributes:
        picture: (H, W, 3) RGB, or the file.
        text: Sentences, one a line; may be empty.
    """

    picture: np.ndarray | Path
    text: str

    def read(self, max_pixels: int) -> np.ndarray:
        """The picture, (H, W, 3) RGB.

        Raises:
            ValueError: If it cannot be read as a picture or is too large.
        """
        if isinstance(self.picture, np.ndarray):
            return self.picture
        return np.ascontiguousarray(read_image(self.picture, max_pixels)[..., ::-1])


def drawn_example(number: int) -> Example:
    """A drawn scene and a sentence for each of its first three objects."""
    scene, expressions = draw_sample(7, 'testA', number)
    texts = [triple[(index + 1) % 3].text for index, triple in enumerate(expressions[:3])]
    return Example(render(scene)[0], '\n'.join(texts))


def examples_of(folder: Path) -> list[Example]:
    """The pictures of a folder, by name, with the sentences of the text files beside them.

    Raises:
        FileNotFoundError: If it has none.
    """
    files = sorted(path for path in folder.glob('*') if path.suffix.lower() in PICTURES)
    if not files:
        raise FileNotFoundError(f'{folder} has no pictures ({", ".join(PICTURES)}) for --examples')
    texts = [path.with_suffix('.txt') for path in files]
    return [Example(path, read_text(text) if text.is_file() else '') for path, text in zip(files, texts)]


class Page:
    """The page and its steps.

    Args:
        models: Those that a visitor may choose from.
        limits: What visitors may ask for.
        examples: Pictures to try; beside them, models of Shapes have drawn ones. Defaults to none.
    """

    def __init__(self, models: Models, limits: Limits, examples: Sequence[Example] = ()) -> None:
        self.models, self.limits = models, limits
        self.examples = list(examples)
        self.drawn = [drawn_example(number) for number in range(NUM_DRAWN)]
        first = models.names[0]
        predictor = models.get(first)
        with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, SESSION_SECONDS)) as self.blocks:
            gr.Markdown(f'# {TITLE}\n{INTRODUCTION}', elem_id='heading')
            self.note = gr.Markdown(DEMO_NOTE, visible=self._draws(first), elem_id='note')
            self.session = gr.State(None, time_to_live=SESSION_SECONDS)
            self.answers = gr.State(None, time_to_live=SESSION_SECONDS)
            self.count = gr.State(NUM_DRAWN)
            with gr.Row(elem_id='columns'):
                with gr.Column(scale=1, min_width=320, elem_id='inputs'):
                    self._add_inputs(first, predictor)
                with gr.Column(scale=1, min_width=320, elem_id='outputs'):
                    self._add_outputs(predictor)
            self._connect()

    def _add_inputs(self, first: str, predictor: RefSegPredictor | ClassPredictor) -> None:
        self.model = gr.Dropdown(
            self.models.names,
            value=first,
            label='Model',
            filterable=False,
            interactive=len(self.models.names) > 1,
            elem_id='model',
        )
        self.picture = gr.Image(
            label='Picture',
            type='filepath',
            sources=['upload', 'clipboard'],
            format='png',
            height=300,
            elem_id='picture',
            buttons=[],
        )
        # The file as it came: gradio would decode it here, before its size is known, and show its own errors.
        self.picture.preprocess = lambda payload: None if payload is None else payload.path
        self.mode = gr.Radio(**self._modes(predictor), label='Ask with', elem_id='mode')
        label, placeholder = HINTS[self._modes(predictor)['value']]
        self.text = gr.Textbox(label=label, placeholder=placeholder, lines=3, max_lines=8, elem_id='text')
        self.button = gr.Button(self._words_of(predictor)['button'], variant='primary', elem_id='segment')
        drawn, shown = self._draws(first), bool(self._examples(first))
        self.gallery = self._add_gallery('Examples', 'examples', shown, self._thumbnails(first))
        self.example = gr.Button('Draw an example', size='sm', visible=drawn, elem_id='example')
        self.history = self._add_gallery('History: ask again', 'history')

    @staticmethod
    def _add_gallery(label: str, name: str, visible: bool = False, value: Sequence | None = None) -> gr.Gallery:
        """Small pictures to choose from, in a row."""
        return gr.Gallery(
            value,
            label=label,
            columns=4,
            height=150,
            fit_columns=False,
            object_fit='cover',
            allow_preview=False,
            interactive=False,
            visible=visible,
            elem_id=name,
            buttons=[],
        )

    def _add_outputs(self, predictor: RefSegPredictor | ClassPredictor) -> None:
        words = self._words_of(predictor)
        self.result = gr.Image(
            label=words['result'],
            type='numpy',
            format='png',
            interactive=False,
            height=300,
            elem_id='result',
            buttons=['fullscreen'],
        )
        with gr.Group(visible=takes_clicks(predictor), elem_id='clicking') as self.clicking:
            self.clicked = gr.Dropdown(
                [], label='Clicks on the masks correct', type='index', filterable=False, elem_id='clicked'
            )
            self.label = gr.Radio(list(LABELS), value=next(iter(LABELS)), label='The next click', elem_id='label')
            with gr.Row():
                self.undo = gr.Button('Undo', size='sm', elem_id='undo')
                self.clear = gr.Button('Clear', size='sm', elem_id='clear')
        self.message = gr.HTML(elem_id='message', padding=False)
        self.threshold = gr.Slider(0.01, 0.99, step=0.01, elem_id='threshold', **self._threshold_of(predictor))
        self.boxes = gr.Checkbox(False, elem_id='boxes', **self._boxes_of(predictor))
        self.table = gr.HTML(elem_id='answers', padding=False)
        with gr.Row():
            self.save_picture = gr.DownloadButton(
                words['picture'], interactive=False, size='sm', elem_id='save_picture'
            )
            self.save_masks = gr.DownloadButton(words['files'], interactive=False, size='sm', elem_id='save_masks')

    @staticmethod
    def _words_of(predictor: RefSegPredictor | ClassPredictor) -> dict[str, str]:
        """What is written on buttons and answer."""
        if isinstance(predictor, ClassPredictor):
            picture, files = 'Picture with its class (PNG)', 'Probabilities (JSON)'
            return dict(button='Classify', result='Class', picture=picture, files=files)
        picture, files = 'Picture with masks (PNG)', 'Masks and boxes (ZIP)'
        return dict(button='Segment', result='Masks', picture=picture, files=files)

    @staticmethod
    def _modes(predictor: RefSegPredictor | ClassPredictor) -> dict[str, Any]:
        if isinstance(predictor, ClassPredictor):
            return dict(choices=[CLASSES], value=CLASSES)
        modes = [SENTENCES, CLASSES] if predictor.asker.by_sentence else [CLASSES]
        modes = modes if predictor.asker.gives_masks else [SENTENCES]
        return dict(choices=modes, value=modes[0])

    @staticmethod
    def _threshold_of(predictor: RefSegPredictor | ClassPredictor) -> dict[str, Any]:
        return dict(
            value=predictor.threshold or 0.5,
            label='Threshold',
            info='Pixels of a higher probability belong to the mask' + describe_rule(predictor.no_target_rule),
            visible=predictor.asker.by_sentence and predictor.asker.gives_masks,
        )

    @staticmethod
    def _boxes_of(predictor: RefSegPredictor | ClassPredictor) -> dict[str, Any]:
        asker = predictor.asker
        source = 'those of the box head' if asker.gives_boxes else 'around the masks'
        # A model that gives boxes alone shows them in any case.
        return dict(label=f'Boxes: {source}', visible=asker.by_sentence and asker.gives_masks)

    def _examples(self, model: str) -> list[Example]:
        return [*self.examples, *(self.drawn if self._draws(model) else [])]

    def _draws(self, model: str) -> bool:
        """Whether a model has drawn examples, whose texts are sentences."""
        return knows_shapes(model) and self.models.get(model).asker.by_sentence

    def _thumbnails(self, model: str) -> list[tuple[np.ndarray, str]]:
        """Small pictures with what to ask, for the gallery."""
        examples = self._examples(model)
        return [
            (shrink(one.read(self.limits.max_pixels), THUMBNAIL_SIDE), caption_of(one.text, 'a picture'))
            for one in examples
        ]

    def _connect(self) -> None:
        hidden = dict(api_visibility='private')
        alone = dict(concurrency_id='model', concurrency_limit=1)
        outputs = [
            self.message,
            self.result,
            self.table,
            self.answers,
            self.session,
            self.history,
            self.save_picture,
            self.save_masks,
            self.clicked,
        ]
        asked = [self.picture, self.mode, self.text, self.threshold, self.session, self.model, self.boxes]
        of_model = [
            self.note,
            self.mode,
            self.text,
            self.threshold,
            self.gallery,
            self.example,
            self.boxes,
            self.clicking,
            self.button,
        ]
        self.mode.change(self.change_mode, self.mode, self.text, show_progress='hidden', **hidden)
        # By a visitor only: going back to a question sets the model, too.
        self.model.input(self.change_model, self.model, [*outputs, *of_model], **alone, **hidden)
        self.picture.change(
            self.check_picture,
            [self.picture, self.model, self.session, self.answers],
            outputs,
            show_progress='hidden',
            **alone,
            **hidden,
        )
        inputs = [self.picture, self.mode, self.text]
        self.example.click(self.draw_example, self.count, [self.count, *inputs], **hidden)
        self.gallery.select(self.take_example, self.model, [*outputs, *inputs], **hidden)
        self._finish(
            self.button.click(self.ask, asked, outputs, show_progress_on=self.result, **alone, **hidden), outputs
        )
        again = self.history.select(
            self.go_back, self.session, [*outputs, self.model, self.picture, *of_model], **alone, **hidden
        )
        self._finish(again.success(self.ask, asked, outputs, show_progress_on=self.result, **alone, **hidden), outputs)
        # Only the answers that are there: no encoder runs.
        for control in (self.threshold, self.boxes):
            moved = control.change(
                self.move_threshold,
                [self.answers, self.threshold, self.boxes],
                outputs,
                show_progress='hidden',
                trigger_mode='always_last',
                **hidden,
            )
            self._make_files_after(moved, outputs)
        on_mask = [self.answers, self.clicked, self.threshold, self.boxes, self.session]
        for event, step, more in [
            (self.result.select, self.click, [self.label]),
            (self.undo.click, functools.partial(self.take_back, 1), []),
            (self.clear.click, functools.partial(self.take_back, MAX_CLICKS), []),
        ]:
            corrected = event(step, [*on_mask, *more], outputs, show_progress='hidden', **alone, **hidden)
            self._make_files_after(corrected, outputs)
        # What programs call (gradio_client); its arguments and results are told by the functions' own types.
        gr.api(self.list_models, api_name='models')
        gr.api(self.segment, api_name='segment', **alone)
        gr.api(self.segment_classes, api_name='classes', **alone)
        gr.api(self.classify, api_name='classify', **alone)

    def _finish(self, asked: Any, outputs: list) -> None:
        """After an answer: on a phone scroll to it; fill the downloads."""
        asked.then(None, js=SHOW_RESULT, api_visibility='private')
        self._make_files_after(asked, outputs)

    def _make_files_after(self, step: Any, outputs: list) -> None:
        inputs = [self.answers, self.threshold, self.session, self.boxes]
        step.then(self.make_files, inputs, outputs, show_progress='hidden', api_visibility='private')

    def nothing_but(self, message: str) -> dict:
        """A message in the place of everything that was there."""
        off = dict(value=None, interactive=False)
        return {
            self.message: message,
            self.result: None,
            self.table: '',
            self.answers: None,
            self.clicked: gr.Dropdown(choices=[], value=None),
            self.save_picture: gr.DownloadButton(**off),
            self.save_masks: gr.DownloadButton(**off),
        }

    @staticmethod
    def change_mode(mode: str) -> Any:
        """Another hint in the text box."""
        label, placeholder = HINTS[mode]
        return gr.Textbox(label=label, placeholder=placeholder)

    def _shown_of(self, model: str) -> dict:
        """What of the page depends on the model."""
        predictor, examples = self.models.get(model), self._examples(model)
        modes, words = self._modes(predictor), self._words_of(predictor)
        return {
            self.button: gr.Button(words['button']),
            self.result: gr.Image(None, label=words['result']),
            self.save_picture: gr.DownloadButton(words['picture'], value=None, interactive=False),
            self.save_masks: gr.DownloadButton(words['files'], value=None, interactive=False),
            self.note: gr.Markdown(visible=self._draws(model)),
            self.mode: gr.Radio(**modes),
            self.text: self.change_mode(modes['value']),
            self.threshold: gr.Slider(**self._threshold_of(predictor)),
            self.boxes: gr.Checkbox(**self._boxes_of(predictor)),
            self.gallery: gr.Gallery(self._thumbnails(model), visible=bool(examples)),
            self.example: gr.Button(visible=self._draws(model)),
            self.clicking: gr.Group(visible=takes_clicks(predictor)),
        }

    def _check_uploaded(self, path: Any) -> None:
        """Refuse a path that did not come by an upload: a request can name any file of this machine."""
        if path is None:
            return
        kept = Path(self.picture.GRADIO_CACHE).resolve()
        if not isinstance(path, str) or not Path(path).resolve().is_relative_to(kept):
            raise ValueError('This picture was not loaded on this page.')
        if not Path(path).is_file():
            raise ValueError('This picture is no longer kept here: load it again.')

    def _session_for(self, session: Session | None, model: str | None) -> Session:
        """The visitor's session, which asks this model from now on."""
        predictor = self.models.get(model)
        if session is None:
            return Session(predictor, self.limits)
        if session.predictor.asker is not predictor.asker:
            session.use(predictor)
        return session

    @without_traceback
    def change_model(self, model: str) -> dict:
        """Another model: what depends on it, and the other's answers away."""
        return self.nothing_but('') | self._shown_of(model)

    @without_traceback
    def check_picture(
        self, path: str | None, model: str | None, session: Session | None, answers: Answers | ClassAnswers | None
    ) -> dict:
        """A new picture: whether it can be read, and the old one's masks away."""
        if path is None:
            return self.nothing_but('')
        self._check_uploaded(path)
        if answers is not None and answers.path == path:  # Its question was gone back to, and is answered already.
            return {self.message: gr.skip()}
        session = self._session_for(session, model)
        session.set_image(path)
        return self.nothing_but('') | {self.session: session}

    @without_traceback
    def ask(
        self,
        path: str | None,
        mode: str,
        text: str,
        threshold: float,
        session: Session | None,
        model: str | None,
        boxes: bool = False,
    ) -> dict:
        """Ask the model."""
        self._check_uploaded(path)
        session = self._session_for(session, model)
        answers = session.ask(path, mode, text)
        shown = self._shown(answers, threshold, boxes)
        session.remember(Question(path, model or self.models.names[0], mode, text), shown[self.result]['value'])
        thumbnails = [(picture, caption_of(question.text)) for question, picture in session.history]
        history = gr.Gallery(thumbnails, visible=True, selected_index=None)
        numbered = [f'{number}: {text}' for number, text in enumerate(answers.texts, 1)]
        choices = [] if answers.by_names else numbered
        clicked = gr.Dropdown(choices=choices, value=choices[0] if choices else None)
        return shown | {
            self.session: session,
            self.answers: answers,
            self.history: history,
            self.clicked: clicked,
        }

    @without_traceback
    def go_back(self, session: Session | None, event: gr.SelectData) -> dict:
        """Put an earlier question back, to be asked again."""
        if session is None or not 0 <= event.index < len(session.history):
            raise ValueError('This question is no longer kept here.')
        question = session.history[event.index][0]
        self._check_uploaded(question.path)
        shown = self._shown_of(question.model)
        shown[self.mode] = gr.Radio(value=question.mode)
        shown[self.text] = gr.Textbox(value=question.text)
        return shown | {self.model: question.model, self.picture: question.path}

    @without_traceback
    def move_threshold(self, answers: Answers | ClassAnswers | None, threshold: float, boxes: bool = False) -> dict:
        """Read the answers that are there at another threshold, with boxes or without."""
        return {self.message: gr.skip()} if answers is None else self._shown(answers, threshold, boxes)

    @without_traceback
    def click(
        self,
        answers: Answers | ClassAnswers | None,
        number: int | None,
        threshold: float,
        boxes: bool,
        session: Session | None,
        label: str,
        event: gr.SelectData,
    ) -> dict:
        """A click on the masks."""
        if answers is None or session is None or number is None or answers.drawn_hw is None:
            return {self.message: gr.skip()}
        height, width = answers.drawn_hw
        x, y = event.index
        session.click(answers, number, ((x + 0.5) / width, (y + 0.5) / height), LABELS[label])
        return self._shown(answers, threshold, boxes) | {self.answers: answers}

    @without_traceback
    def take_back(
        self,
        count: int,
        answers: Answers | ClassAnswers | None,
        number: int | None,
        threshold: float,
        boxes: bool,
        session: Session | None,
    ) -> dict:
        """Take so many of the last clicks on the sentence's mask back."""
        if answers is None or session is None or number is None or answers.drawn_hw is None:
            return {self.message: gr.skip()}
        session.take_back(answers, number, count)
        return self._shown(answers, threshold, boxes) | {self.answers: answers}

    def _shown(self, answers: Answers | ClassAnswers, threshold: float, boxes: bool) -> dict:
        picture, rows, message = answers.draw(threshold, boxes)
        classifies = isinstance(answers, ClassAnswers)
        return {
            self.message: show_message(message, seconds=describe_seconds(answers)),
            # Not the bare picture: once a component was updated (its label, by the choice of a model), gradio forgets
            # the files of its bare values, and they are never deleted.
            self.result: gr.update(value=picture),
            self.table: show_classes(rows) if classifies else show_table(rows, not answers.by_names),
        }

    @without_traceback
    def make_files(
        self, answers: Answers | ClassAnswers | None, threshold: float, session: Session | None, boxes: bool = False
    ) -> dict:
        """Fill the buttons for downloads; the page shows the masks before."""
        if answers is None:
            return {self.message: gr.skip()}
        picture, archive = answers.write_files(threshold, Path(session.files.name), boxes)
        return {
            self.save_picture: gr.DownloadButton(value=picture, interactive=True),
            self.save_masks: gr.DownloadButton(value=archive, interactive=True),
        }

    @staticmethod
    def draw_example(count: int) -> tuple:
        """Another drawn scene, with sentences."""
        example = drawn_example(count)
        return count + 1, example.picture, SENTENCES, example.text

    @without_traceback
    def take_example(self, model: str, event: gr.SelectData) -> dict:
        """The picture of the gallery that was chosen, with its sentences."""
        example = self._examples(model)[event.index]
        taken = {self.picture: example.read(self.limits.max_pixels), self.text: example.text}
        return taken | ({self.mode: SENTENCES} if self.models.get(model).asker.by_sentence else {})

    def list_models(self) -> list[str]:
        """Names of the models that the page was started with; where none is named, the first is asked."""
        return self.models.names

    def segment(
        self,
        picture: gr.FileData,
        sentences: list[str],
        model: str | None = None,
        threshold: float | None = None,
        boxes: bool = False,
    ) -> dict:
        """Segment what sentences mean: masks of the picture's size in COCO's run lengths, boxes, scores.

        Args:
            picture: An uploaded file, by gradio_client.handle_file.
            sentences: What to look for.
            model: One of those that models lists. Defaults to None: the first.
            threshold: Pixels of a higher probability belong to the mask. Defaults to None: the model's own.
            boxes: Whether the result has boxes in COCO's results form, of the model's box head or around the masks; a
                model that gives boxes alone gives them in any case. Defaults to False.
        """
        return self._answer_program(picture, SENTENCES, sentences, model, threshold, boxes)

    def segment_classes(
        self, picture: gr.FileData, names: list[str], model: str | None = None, threshold: float | None = None
    ) -> dict:
        """Give each pixel one of the classes: a mask for each that is in the picture, the largest first.

        Args:
            picture: An uploaded file, by gradio_client.handle_file.
            names: Names of at least two classes.
            model: One of those that models lists. Defaults to None: the first.
            threshold: Pixels of a lower probability have no class. Defaults to None: the model's own.
        """
        return self._answer_program(picture, CLASSES, names, model, threshold)

    def classify(self, picture: gr.FileData, names: list[str], model: str | None = None) -> dict:
        """Name the class of the whole picture, by a model that does: all probabilities, and those of zero-shot CLIP.

        Args:
            picture: An uploaded file, by gradio_client.handle_file.
            names: Names of at least two classes.
            model: One of those that models lists. Defaults to None: the first.
        """
        return self._answer_program(picture, CLASSES, names, model, None, classifies=True)

    def _answer_program(
        self,
        picture: Any,
        mode: str,
        texts: Any,
        model: str | None,
        threshold: float | None,
        boxes: bool = False,
        classifies: bool = False,
    ) -> dict[str, Any]:
        """The answers, or an error that the program gets as its own; none of the arguments was checked before."""
        try:
            path = picture.get('path') if isinstance(picture, dict) else None
            self._check_uploaded(path)
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise ValueError('Sentences and class names are a list of texts.')
            session = self._session_for(None, model)
            asker = session.predictor.asker
            if isinstance(session.predictor, ClassPredictor) != classifies:
                raise ValueError(
                    'This model does not name the class of a picture: /classes gives each pixel one.'
                    if classifies
                    else 'This model names the class of a picture: ask /classify.'
                )
            least = session.predictor.threshold if threshold is None else asker.check_threshold(threshold)
            answers = session.ask(path, mode, '\n'.join(' '.join(text.split()) for text in texts))
            seconds = dict(encoding=answers.encoding_seconds, asking=answers.asking_seconds)
            return dict(model=model or self.models.names[0], seconds=seconds, **answers.as_dict(least, boxes))
        except (ValueError, FileNotFoundError) as error:
            raise gr.Error(str(error), print_exception=False) from None
        except Exception:
            traceback.print_exc()
            raise gr.Error('Something went wrong on the side of the server.', print_exception=False) from None

    def launch(self, host: str, port: int | None, open_browser: bool = False) -> None:
        """Serve the page until Ctrl+C or SIGTERM; what gradio and the sessions keep of visitors goes then."""
        _, address, _ = self.blocks.launch(
            server_name=host,
            server_port=port,
            inbrowser=open_browser,
            share=False,
            show_error=False,
            quiet=True,
            ssr_mode=False,
            footer_links=[],
            max_file_size=self.limits.max_megabytes * 10**6,
            css=CSS,
            js=SCRIPT,
            theme=theme(),
            state_session_capacity=SESSIONS,
            prevent_thread_lock=True,
        )
        print(f'The page is at {address} (Ctrl+C ends it)', flush=True)
        self.blocks.server.config.timeout_graceful_shutdown = 3  # seconds; gradio waits 5 and then gives up
        try:
            threading.Event().wait()
        except KeyboardInterrupt:  # gradio's own way of taking it leaves the pictures of all whose tab is still open
            print('The page ends', flush=True)
            self.blocks.close(verbose=False)
            self.blocks.server.thread.join(60)  # gradio's 5 seconds may not suffice a busy machine


def main() -> None:
    """Load the model, serve the page."""
    parser = build_parser()
    args = parser.parse_args()
    if args.port is not None and not 1 <= args.port <= 65535:
        parser.error(f'--port {args.port}: 1 to 65535')
    if min(args.max_pixels, args.max_megabytes) < 1:
        parser.error('--max-pixels and --max-megabytes: 1 at least')
    limits = Limits(max_pixels=args.max_pixels, max_megabytes=args.max_megabytes)
    # Service managers and containers end it so; it would leave the visitors' pictures behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        given = args.model or os.environ.get(MODELS_VARIABLE, '').split() or [None]
        models = Models(given, args.weights, args.device, limits.max_pixels)
        examples = [] if args.examples is None else examples_of(args.examples)
        page = Page(models, limits, examples)
        page.launch(args.host, args.port, args.open)
    except (FileNotFoundError, ValueError, OSError) as error:
        parser.exit(2, f'error: {error}\n')
    except KeyboardInterrupt:  # While it starts.
        sys.exit(130)


if __name__ == '__main__':
    main()
