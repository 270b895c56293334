"""Serve an exported model with LitServe: sentences of several requests go through it together, over kept pictures.

    python projects/serving/server.py exported

exported is what tools/deployment/export.py wrote. docs/serving.md has the requests and what they cost.
"""

# Without "from __future__ import annotations": LitServe reads the type of a request from decode_request's own.
import argparse
import sys
from pathlib import Path
from typing import Any

try:
    import litserve
except ImportError:
    sys.exit(f'error: this server needs LitServe: pip install -r {Path(__file__).with_name("requirements.txt")}')
from answering import Answering, Limits, Question, Refusal, read_question
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

    Args:
        folder: What tools/deployment/export.py wrote.
        limits: What a request may ask for.
        batch_size: Sentences that go through the model together.
        max_batch_size: Requests that are answered together.
        batch_timeout: Seconds that the first of them waits for the others.
    """

    def __init__(
        self, folder: Path, limits: Limits, batch_size: int, max_batch_size: int, batch_timeout: float
    ) -> None:
        super().__init__(max_batch_size=max_batch_size, batch_timeout=batch_timeout)
        self.folder, self.limits, self.batch_size = folder, limits, batch_size

    def setup(self, device: str) -> None:
        """Load the model, in the worker's process."""
        self.answering = Answering(self.folder, self.limits, self.batch_size)

    def decode_request(self, request: SegmentRequest) -> Question | Refusal:
        """Check a request. An exception here would be the answer to all that are batched with it."""
        return read_question(request.picture, request.picture_id, request.sentences, self.limits)

    def batch(self, inputs: list[Question | Refusal]) -> list[Question | Refusal]:
        """As they are: pictures of any size, any number of sentences."""
        return list(inputs)

    def predict(self, questions: Any) -> Any:
        """Answer requests; a single one where LitServe makes no batches."""
        if isinstance(questions, list):
            return self.answering.answer(questions)
        return self.answering.answer([questions])[0]

    def unbatch(self, output: list) -> list:
        """They are one for each request."""
        return output

    def encode_response(self, output: dict | Refusal) -> Any:
        """What is sent back, with its status."""
        if isinstance(output, Refusal):
            return JSONResponse(dict(detail=output.detail), output.status)
        return JSONResponse(output)


async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
    """Say what of a request does not fit, without repeating it: it may hold a whole picture."""
    found = '; '.join(f'{".".join(map(str, one["loc"]))}: {one["msg"]}' for one in error.errors()[:3])
    return JSONResponse(dict(detail=found), 422)


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
    parser.add_argument('--port', type=int, default=8000, help='default 8000')
    parser.add_argument('--batch-size', type=int, default=8, help='sentences together; default 8')
    parser.add_argument('--max-requests', type=int, default=8, help='requests answered together; default 8')
    parser.add_argument('--wait', type=float, default=0.005, help='seconds a request waits for others; default 0.005')
    parser.add_argument('--timeout', type=float, default=30, help='seconds a request may wait at all; default 30')
    for name, value in limits._asdict().items():
        parser.add_argument(
            f'--{name.replace("_", "-")}', type=int, default=value, metavar='N', help=f'default {value}'
        )
    return parser


def build_server(args: argparse.Namespace) -> litserve.LitServer:
    """The server, not yet started; one worker, so that a picture is encoded once."""
    limits = Limits(**{name: getattr(args, name) for name in Limits._fields})
    api = SegmentAPI(args.exported, limits, args.batch_size, args.max_requests, args.wait)
    largest = limits.max_megabytes * 10**6 * 4 // 3 + 10**6  # base64, and the sentences
    server = litserve.LitServer(
        api, accelerator='cpu', workers_per_device=1, timeout=args.timeout, max_payload_size=largest
    )
    server.app.add_exception_handler(RequestValidationError, refuse)
    return server


def main() -> None:
    """Serve until Ctrl+C."""
    args = build_parser().parse_args()
    if not (args.exported / 'export.json').is_file():
        sys.exit(f'error: {args.exported} has no export.json; is it what tools/deployment/export.py wrote?')
    build_server(args).run(host=args.host, port=args.port, generate_client_file=False, log_level='warning')


if __name__ == '__main__':
    main()
