"""Serve an exported model with LitServe: sentences of several requests go through it together, over kept pictures.

    python projects/serving/server.py exported

exported is what tools/deployment/export.py wrote. docs/serving.md has the requests and what they cost.
"""

# Without "from __future__ import annotations": LitServe reads the type of a request from decode_request's own.
import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

try:
    import litserve
except ImportError:
    sys.exit(f'error: this server needs LitServe: pip install -r {Path(__file__).with_name("requirements.txt")}')
from answering import Answering, Batches, Limits, Question, Refusal, read_question
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel


class SegmentRequest(BaseModel):
    """What is sent to /predict.

    Attributes:
        sentences: What to look for.
        picture: File of a picture, in base64.
        picture_id: Instead of it, what an earlier answer called it.
    """

    sentences: list[str]
    picture: str | None = None
    picture_id: str | None = None


class SegmentAPI(litserve.LitAPI):
    """A worker: it has the model and the encoded pictures.

    LitServe's own batches wait for a time that is set, and ask every thousandth of a second whether another request is
    there; those of :class:`Batches` do neither.

    Args:
        args: The command line's.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(enable_async=True)
        self.args = args
        self.limits = Limits(**{name: getattr(args, name) for name in Limits._fields})

    def setup(self, device: str) -> None:
        """Load the model, in the worker's process."""
        answering = Answering(self.args.exported, self.limits, self.args.batch_size, self.args.threads)
        self.batches = Batches(answering.answer, self.args.max_requests, self.args.max_waiting)

    async def decode_request(self, request: SegmentRequest) -> Question | Refusal:
        """Check a request."""
        return read_question(request.picture, request.picture_id, request.sentences, self.limits)

    async def predict(self, question: Question | Refusal) -> dict[str, Any] | Refusal:
        """Answer a request, together with others that are there."""
        return question if isinstance(question, Refusal) else await self.batches.ask(question)

    async def encode_response(self, output: dict[str, Any] | Refusal) -> JSONResponse:
        """What is sent back, with its status."""
        if isinstance(output, Refusal):
            return JSONResponse(dict(detail=output.detail), output.status)
        return JSONResponse(output)


async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
    """Say what of a request does not fit, without repeating it: it may hold a whole picture."""
    found = '; '.join(f'{".".join(map(str, one["loc"]))}: {one["msg"]}' for one in error.errors()[:3])
    return JSONResponse(dict(detail=found), 422)


def whole_number(text: str) -> int:
    """A number of the command line, 1 at least."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f'{number} is less than 1')
    return number


def port_number(text: str) -> int:
    """A port that LitServe takes."""
    number = int(text)
    if not 1024 <= number <= 65535:
        raise argparse.ArgumentTypeError(f'{number} is not one of 1024 to 65535')
    return number


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    limits = Limits()
    parser = argparse.ArgumentParser(description='Serve an exported model')
    parser.add_argument('exported', type=Path, help='folder that tools/deployment/export.py wrote')
    parser.add_argument(
        '--host',
        choices=['127.0.0.1', '0.0.0.0', '::'],
        default='127.0.0.1',
        help='default 127.0.0.1, this machine only; the server asks for no password',
    )
    parser.add_argument('--port', type=port_number, default=8000, help='default 8000')
    parser.add_argument('--batch-size', type=whole_number, default=8, help='sentences together; default 8')
    parser.add_argument('--threads', type=whole_number, default=0, help='of the CPU, for one batch; default all')
    parser.add_argument('--max-requests', type=whole_number, default=8, help='requests answered together; default 8')
    parser.add_argument('--max-waiting', type=whole_number, default=64, help='requests that may wait; default 64')
    for name, value in limits._asdict().items():
        parser.add_argument(
            f'--{name.replace("_", "-")}', type=whole_number, default=value, metavar='N', help=f'default {value}'
        )
    return parser


def build_server(args: argparse.Namespace) -> litserve.LitServer:
    """The server, not yet started; one worker, so that a picture is encoded once."""
    largest = args.max_megabytes * 10**6 * 4 // 3 + 10**6  # base64, and the sentences
    server = litserve.LitServer(
        SegmentAPI(args), accelerator='cpu', workers_per_device=1, timeout=False, max_payload_size=largest
    )
    server.app.add_exception_handler(RequestValidationError, refuse)
    return server


def end_by_sigterm() -> None:
    """Let SIGTERM, of service managers, be Ctrl+C, on which LitServe ends its processes; else it leaves them behind."""
    own = os.getpid()

    def end(*_: Any) -> NoReturn:
        if os.getpid() == own:
            raise KeyboardInterrupt
        raise SystemExit  # In a process that LitServe forked and ends.

    signal.signal(signal.SIGTERM, end)


def main() -> None:
    """Serve until Ctrl+C."""
    args = build_parser().parse_args()
    if not (args.exported / 'export.json').is_file():
        sys.exit(f'error: {args.exported} has no export.json; is it what tools/deployment/export.py wrote?')
    end_by_sigterm()
    try:
        build_server(args).run(host=args.host, port=args.port, generate_client_file=False, log_level='warning')
    except KeyboardInterrupt:  # While it starts; later LitServe takes it.
        sys.exit(130)


if __name__ == '__main__':
    main()
