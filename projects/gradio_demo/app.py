"""A web page to try a model on: load a picture, type sentences or class names, see the masks, move the threshold.

python projects/gradio_demo/app.py
"""

from __future__ import annotations

import argparse
import html
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The page talks to nobody but its visitor: no telemetry, no look for new versions. Read when gradio is imported.
os.environ.setdefault('GRADIO_ANALYTICS_ENABLED', 'False')
os.environ.setdefault('HF_HUB_OFFLINE', '1')

try:
    import gradio as gr
except ImportError:
    sys.exit(f'error: this page needs gradio: pip install -r {Path(__file__).with_name("requirements.txt")}')

from session import CLASSES, SENTENCES, Answers, Limits, Row, Session  # noqa: E402

from mmetris.apis import RefSegPredictor  # noqa: E402
from mmetris.datasets.shapes import draw_sample, render  # noqa: E402
from mmetris.models.decode_heads import NoTargetRule  # noqa: E402

TITLE = 'Referring image segmentation'
INTRODUCTION = 'Load a picture and say what to segment: each sentence gets its own mask.'
DEMO_NOTE = (
    'This model knows **drawn shapes** only (circles, squares, rings... in eight colours): press “Draw an '
    'example”. For photographs start the page with a model that was trained on them (`--model`).'
)
HINTS = {
    SENTENCES: ('Sentences, one a line', 'the dog on the left\nthe brown cat'),
    CLASSES: ('Class names, by commas or one a line', 'dog, cat, grass'),
}
SESSION_SECONDS = 3600  # a visitor who leaves frees the memory after so long
SESSIONS = 16  # of so many visitors at most answers are kept, some 200 MB each at the limits; the oldest go
CSS = """
footer {display: none !important}
#message .message {padding: 8px 12px; border-radius: 8px; border: 1px solid; white-space: pre-line; font-size: 14px}
#message .info {background: #fff7e6; border-color: #e69f00; color: #5c3d00}
#message .error {background: #fdecea; border-color: #d55e00; color: #6b1d00}
#answers table {width: 100%; border-collapse: collapse; font-size: 14px}
#answers td, #answers th {padding: 4px 8px; text-align: left; white-space: nowrap; border: 0; font-weight: normal}
#answers th {color: gray}
#answers tr {border: 0; border-bottom: 1px solid lightgray}
#answers .text {width: 100%; white-space: normal; overflow-wrap: anywhere}
#answers .number {text-align: right}
#answers .chip {display: inline-block; min-width: 22px; border-radius: 5px; color: white; text-align: center}
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description='Web page: segment what sentences mean')
    parser.add_argument('--model', help="config, name of the model index or folder of a training; default the demo's")
    parser.add_argument('--weights', help='checkpoint; default the one that belongs to the model')
    parser.add_argument('--device', help='cpu, cuda:0, ...; default a GPU if there is one')
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        help='address to listen at; default 127.0.0.1, this machine only. 0.0.0.0 lets everybody in '
        'who reaches this machine: the page asks for no password',
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


def show_message(text: str, kind: str = 'info') -> str:
    """HTML of the box for messages; nothing for an empty text."""
    return f'<div class="message {kind}">{html.escape(text)}</div>' if text else ''


def describe_rule(rule: NoTargetRule | None) -> str:
    """When a sentence is answered by "not in the picture", to be put behind what the slider does."""
    if rule is None:
        return ''
    return f'; none does where the no-target score ({rule.by}) is {rule.threshold:g} or more: not in the picture'


def show_table(rows: list[Row], with_scores: bool) -> str:
    """HTML of the table below the picture."""
    heads = ['', 'sentence', 'score', 'box (x, y, x, y)', 'share'] if with_scores else ['', 'class', 'share']
    decides = any(row.no_target_score is not None for row in rows)
    if decides:
        heads.append('no-target score')
    lines = [''.join(f'<th>{head}</th>' for head in heads)]
    for number, row in enumerate(rows, 1):
        cells = [
            f'<td><span class="chip" style="background: rgb{row.color}">{number}</span></td>',
            f'<td class="text">{html.escape(row.text)}</td>',
        ]
        if with_scores:
            cells.append(f'<td class="number">{"–" if row.score is None else f"{row.score:.2f}"}</td>')
            empty = 'not in the picture' if row.no_target else 'nothing found'
            cells.append(f'<td>{empty if row.box is None else ", ".join(map(str, row.box))}</td>')
        cells.append(f'<td class="number">{100 * row.share:.1f} %</td>')
        if decides:
            cells.append(f'<td class="number">{row.no_target_score:.2f}</td>')
        lines.append(''.join(cells))
    return f'<table>{"".join(f"<tr>{line}</tr>" for line in lines)}</table>' if rows else ''


def without_traceback(step: Callable) -> Callable:
    """Turn whatever goes wrong into a message for the page; a programming error also goes to the terminal.

    Args:
        step: Returns values of the page's outputs, the message first.

    Returns:
        The same with a dict as result: that of ``step``, or the message alone.
    """

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


class Page:
    """The page and its steps.

    Args:
        predictor: Whose model is asked.
        limits: What visitors may ask for.
        with_example: Whether there is a button that draws an example, for models of Shapes.
    """

    def __init__(self, predictor: RefSegPredictor, limits: Limits, with_example: bool) -> None:
        self.predictor, self.limits = predictor, limits
        with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, SESSION_SECONDS)) as self.blocks:
            gr.Markdown(f'# {TITLE}\n{INTRODUCTION}' + (f'\n\n{DEMO_NOTE}' if with_example else ''))
            self.session = gr.State(None, time_to_live=SESSION_SECONDS)
            self.answers = gr.State(None, time_to_live=SESSION_SECONDS)
            self.count = gr.State(0)
            with gr.Row():
                with gr.Column(scale=1, min_width=320):
                    self._add_inputs(with_example)
                with gr.Column(scale=1, min_width=320):
                    self._add_outputs()
            self._connect()

    def _add_inputs(self, with_example: bool) -> None:
        self.picture = gr.Image(
            label='Picture',
            type='filepath',
            sources=['upload', 'clipboard'],
            format='png',
            height=340,
            elem_id='picture',
            buttons=[],
        )
        # The file as it came: gradio would decode it here, before its size is known, and show its own errors.
        self.picture.preprocess = lambda payload: None if payload is None else payload.path
        self.example = gr.Button('Draw an example', visible=with_example, elem_id='example')
        modes = [CLASSES] if self.predictor.asker.by_class else [SENTENCES, CLASSES]
        self.mode = gr.Radio(modes, value=modes[0], show_label=False, container=False, elem_id='mode')
        label, placeholder = HINTS[modes[0]]
        self.text = gr.Textbox(label=label, placeholder=placeholder, lines=3, max_lines=8, elem_id='text')
        self.button = gr.Button('Segment', variant='primary', elem_id='segment')

    def _add_outputs(self) -> None:
        self.result = gr.Image(
            label='Masks',
            type='numpy',
            format='png',
            interactive=False,
            height=340,
            elem_id='result',
            buttons=['fullscreen'],
        )
        self.message = gr.HTML(elem_id='message', padding=False)
        self.threshold = gr.Slider(
            0.01,
            0.99,
            value=self.predictor.threshold,
            step=0.01,
            elem_id='threshold',
            label='Threshold',
            info='Pixels of a higher probability belong to the mask' + describe_rule(self.predictor.no_target_rule),
            visible=not self.predictor.asker.by_class,
        )
        self.table = gr.HTML(elem_id='answers', padding=False)
        with gr.Row():
            self.save_picture = gr.DownloadButton(
                'Picture with masks (PNG)', interactive=False, size='sm', elem_id='save_picture'
            )
            self.save_masks = gr.DownloadButton(
                'Masks and boxes (ZIP)', interactive=False, size='sm', elem_id='save_masks'
            )

    def _connect(self) -> None:
        hidden = dict(api_visibility='private')
        outputs = [
            self.message,
            self.result,
            self.table,
            self.answers,
            self.session,
            self.save_picture,
            self.save_masks,
        ]
        self.mode.change(self.change_mode, self.mode, self.text, show_progress='hidden', **hidden)
        self.picture.change(
            self.check_picture,
            [self.picture, self.session],
            outputs,
            show_progress='hidden',
            concurrency_id='model',
            concurrency_limit=1,
            **hidden,
        )
        self.example.click(self.draw_example, self.count, [self.count, self.picture, self.mode, self.text], **hidden)
        self.button.click(
            self.ask,
            [self.picture, self.mode, self.text, self.threshold, self.session],
            outputs,
            show_progress_on=self.result,
            concurrency_id='model',
            concurrency_limit=1,
            **hidden,
        ).then(self.make_files, [self.answers, self.threshold, self.session], outputs, show_progress='hidden', **hidden)
        # Only the answers that are there: no encoder runs.
        self.threshold.change(
            self.move_threshold,
            [self.answers, self.threshold],
            outputs,
            show_progress='hidden',
            trigger_mode='always_last',
            **hidden,
        ).then(self.make_files, [self.answers, self.threshold, self.session], outputs, show_progress='hidden', **hidden)

    def nothing_but(self, message: str) -> dict:
        """A message in the place of everything that was there."""
        off = dict(value=None, interactive=False)
        return {
            self.message: message,
            self.result: None,
            self.table: '',
            self.answers: None,
            self.save_picture: gr.DownloadButton(**off),
            self.save_masks: gr.DownloadButton(**off),
        }

    @staticmethod
    def change_mode(mode: str) -> Any:
        """Another hint in the text box."""
        label, placeholder = HINTS[mode]
        return gr.Textbox(label=label, placeholder=placeholder)

    def _check_uploaded(self, path: str | None) -> None:
        """Refuse a path that did not come by an upload: a request can name any file of this machine."""
        if path is not None and not Path(path).resolve().is_relative_to(Path(self.picture.GRADIO_CACHE).resolve()):
            raise ValueError('This picture was not loaded on this page.')

    @without_traceback
    def check_picture(self, path: str | None, session: Session | None) -> dict:
        """A new picture: whether it can be read, and the old one's masks away."""
        if path is None:
            return self.nothing_but('')
        self._check_uploaded(path)
        session = session or Session(self.predictor, self.limits)
        session.set_image(path)
        return self.nothing_but('') | {self.session: session}

    @without_traceback
    def ask(self, path: str | None, mode: str, text: str, threshold: float, session: Session | None) -> dict:
        """Ask the model."""
        self._check_uploaded(path)
        session = session or Session(self.predictor, self.limits)
        answers = session.ask(path, mode, text)
        return self._shown(answers, threshold) | {self.session: session, self.answers: answers}

    @without_traceback
    def move_threshold(self, answers: Answers | None, threshold: float) -> dict:
        """Read the answers that are there at another threshold."""
        return {self.message: gr.skip()} if answers is None else self._shown(answers, threshold)

    def _shown(self, answers: Answers, threshold: float) -> dict:
        picture, rows, message = answers.draw(threshold)
        return {
            self.message: show_message(message),
            self.result: picture,
            self.table: show_table(rows, answers.labels is None),
        }

    @without_traceback
    def make_files(self, answers: Answers | None, threshold: float, session: Session | None) -> dict:
        """Fill the buttons for downloads; the page shows the masks before."""
        if answers is None:
            return {self.message: gr.skip()}
        picture, archive = answers.write_files(threshold, Path(session.files.name))
        return {
            self.save_picture: gr.DownloadButton(value=picture, interactive=True),
            self.save_masks: gr.DownloadButton(value=archive, interactive=True),
        }

    @staticmethod
    def draw_example(count: int) -> tuple:
        """A drawn scene and a sentence for each of its first three objects."""
        scene, expressions = draw_sample(7, 'testA', count)
        texts = [triple[(index + 1) % 3].text for index, triple in enumerate(expressions[:3])]
        return count + 1, render(scene)[0], SENTENCES, '\n'.join(texts)

    def launch(self, host: str, port: int | None, open_browser: bool = False) -> None:
        """Serve the page until Ctrl+C."""
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
            theme=gr.themes.Default(),
            state_session_capacity=SESSIONS,
            prevent_thread_lock=True,
        )
        print(f'The page is at {address} (Ctrl+C ends it)', flush=True)
        self.blocks.block_thread()


def main() -> None:
    """Load the model, serve the page."""
    args = build_parser().parse_args()
    limits = Limits(max_pixels=args.max_pixels, max_megabytes=args.max_megabytes)
    try:
        predictor = RefSegPredictor(args.model, args.weights, args.device, max_pixels=limits.max_pixels)
        page = Page(predictor, limits, with_example=args.model is None or 'shapes' in Path(args.model).name)
        page.launch(args.host, args.port, args.open)
    except (FileNotFoundError, ValueError, OSError) as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
