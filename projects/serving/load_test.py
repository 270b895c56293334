"""A bounded load on a server of this machine, beside the plain loop: requests a second, and seconds of a request.

    python projects/serving/load_test.py exported

Some clients send requests at one time, each one picture and some sentences; every picture is asked about several times.
The plain loop answers the same requests one after the other with projects/onnx_runtime, with nothing kept and nothing
batched. Servers are started by this program, on the loopback address only, and ended by it.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

HOST = '127.0.0.1'
MOST_REQUESTS = 2000
WORDS = ('red', 'blue', 'green', 'large', 'small', 'left', 'right', 'striped', 'plain', 'top')


class Figures(NamedTuple):
    """What a run was like.

    Attributes:
        seconds: All of it.
        latencies: (N,) seconds of each request.
        answers: What was answered to each.
    """

    seconds: float
    latencies: np.ndarray
    answers: list[dict[str, Any]]


def make_files(number: int, size: tuple[int, int] = (640, 480)) -> list[bytes]:
    """Smooth colourful JPEG files of (width, height)."""
    files = []
    for seed in range(number):
        small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(buffer, 'jpeg', quality=90)
        files.append(buffer.getvalue())
    return files


def make_requests(files: Sequence[bytes], number: int, sentences: int) -> list[tuple[int, list[str]]]:
    """Which picture, and what is asked: the pictures by turns, other sentences each time."""
    rng = np.random.default_rng(0)
    return [
        (
            index % len(files),
            [f'the {rng.choice(WORDS)} {rng.choice(WORDS)} thing {place}' for place in range(sentences)],
        )
        for index in range(number)
    ]


def time_all(requests: Sequence[Any], clients: int, ask: Callable[[Any], dict[str, Any]]) -> Figures:
    """Ask everything, by so many clients at one time."""

    def one(request: Any) -> tuple[float, dict[str, Any]]:
        started = time.perf_counter()
        answer = ask(request)
        return time.perf_counter() - started, answer

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(one, requests))
    seconds = time.perf_counter() - started
    return Figures(seconds, np.array([latency for latency, _ in found]), [answer for _, answer in found])


def time_in_turn(
    requests: Sequence[Any], ways: dict[str, tuple[int, Callable[[Any], dict[str, Any]]]], rounds: int
) -> dict[str, Figures]:
    """Ask everything in each way, a part at a time and by turns, so that whatever else the machine does meets all.

    Args:
        requests: What is asked.
        ways: For each name how many clients, and what answers.
        rounds: Parts.
    """
    parts: dict[str, list[Figures]] = {name: [] for name in ways}
    for clients, ask in ways.values():
        time_all(requests[:1], clients, ask)  # The first takes longer.
    for start in range(rounds):
        for name, (clients, ask) in ways.items():
            parts[name].append(time_all(requests[start::rounds], clients, ask))
    return {
        name: Figures(
            sum(one.seconds for one in found),
            np.concatenate([one.latencies for one in found]),
            [answer for one in found for answer in one.answers],
        )
        for name, found in parts.items()
    }


def plain_loop(folder: Path, files: Sequence[bytes], threads: int) -> Callable[[Any], dict[str, Any]]:
    """What answers a request as a loop without a server does."""
    from answering import describe
    from segment import Segmenter, read_picture

    segmenter = Segmenter(folder, threads=threads)

    def ask(request: tuple[int, list[str]]) -> dict[str, Any]:
        index, sentences = request
        segmenter.set_image(read_picture(io.BytesIO(files[index])))
        return dict(answers=[describe(answer) for answer in segmenter.predict(sentences)])

    return ask


@contextmanager
def serve(folder: Path, *options: str, start_seconds: float = 120, log: str | Path | None = None) -> Iterator[int]:
    """The port of a server that runs meanwhile.

    Args:
        folder: The export.
        *options: Of the server.
        start_seconds: What it may take to start. Defaults to 120.
        log: File for what it prints. Defaults to None, a temporary one.

    Raises:
        RuntimeError: If it does not start; the message is what it printed.
    """
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    script = Path(__file__).with_name('server.py')
    with tempfile.TemporaryFile('w+') if log is None else open(log, 'w+') as printed:
        command = [sys.executable, str(script), str(folder), '--host', HOST, '--port', str(port), *options]
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + start_seconds
            while not is_ready(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    printed.seek(0)
                    raise RuntimeError(f'the server did not start:\n{printed.read()}')
                time.sleep(0.2)
            yield port
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def is_ready(port: int) -> bool:
    """Whether the server says that its model is loaded."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request('GET', '/health')
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def send(port: int, content: Any, timeout: float = 60) -> tuple[int, dict[str, Any]]:
    """Send a request, a dict or bytes, to a server of this machine; status and answer."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout)
    try:
        connection.request('POST', '/predict', body, {'Content-Type': 'application/json'})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def client_of(port: int, files: Sequence[bytes]) -> Callable[[Any], dict[str, Any]]:
    """What asks a server: by the picture's id where an earlier answer told it, else with the file."""
    ids: dict[int, str] = {}

    def ask(request: tuple[int, list[str]]) -> dict[str, Any]:
        index, sentences = request
        if index in ids:
            status, answer = send(port, dict(picture_id=ids[index], sentences=sentences))
            if status == 200:
                return answer
        encoded = base64.b64encode(files[index]).decode('ascii')
        status, answer = send(port, dict(picture=encoded, sentences=sentences))
        if status != 200:
            raise RuntimeError(f'status {status}: {answer}')
        ids[index] = answer['picture_id']
        return answer

    return ask


def report(name: str, figures: Figures, plain: Figures) -> str:
    """A row of the table."""
    rate, plain_rate = (len(one.latencies) / one.seconds for one in (figures, plain))
    median, late = 1000 * np.percentile(figures.latencies, [50, 95])
    return f'| {name} | {rate:.1f} | {rate / plain_rate:.2f} | {median:.0f} ms | {late:.0f} ms |'


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the plain loop and the servers, and print a table."""
    parser = argparse.ArgumentParser(description='Bounded load on a server of this machine, beside the plain loop')
    parser.add_argument('exported', type=Path, help='folder that tools/deployment/export.py wrote')
    parser.add_argument('--requests', type=int, default=120, help=f'default 120; at most {MOST_REQUESTS}')
    parser.add_argument('--sentences', type=int, default=2, help='of each request; default 2')
    parser.add_argument('--pictures', type=int, default=6, help='different ones; default 6')
    parser.add_argument('--clients', type=int, default=8, help='at one time; default 8')
    parser.add_argument('--threads', type=int, default=0, help='of the CPU, for one answer; default all')
    parser.add_argument('--rounds', type=int, default=4, help='in which all ways are measured by turns; default 4')
    args = parser.parse_args(arguments)
    if not 0 < args.rounds <= args.requests <= MOST_REQUESTS:
        parser.error(f'--requests {args.requests} must be 1 to {MOST_REQUESTS}, and not fewer than --rounds')
    files = make_files(args.pictures)
    requests = make_requests(files, args.requests, args.sentences)
    same = ('--threads', str(args.threads))
    alone = ('--max-requests', '1', '--batch-size', '1', *same)
    with serve(args.exported, *alone) as single, serve(args.exported, *same) as batching:
        ways = {
            'plain loop, one at a time': (1, plain_loop(args.exported, files, args.threads)),
            'server, nothing batched, 1 client': (1, client_of(single, files)),
            f'server, nothing batched, {args.clients} clients': (args.clients, client_of(single, files)),
            f'server, batches, {args.clients} clients': (args.clients, client_of(batching, files)),
        }
        found = time_in_turn(requests, ways, args.rounds)
    plain = found['plain loop, one at a time']
    for figures in found.values():
        check_same(figures, plain)
    print(
        f'{args.requests} requests of {args.sentences} sentences about {args.pictures} pictures of 640 x 480; '
        'the masks of all are the same'
    )
    print('| | requests / s | beside the loop | median | 95 % within |')
    print('| --- | --- | --- | --- | --- |')
    for name, figures in found.items():
        print(report(name, figures, plain))


def check_same(figures: Figures, plain: Figures) -> None:
    """Raise RuntimeError unless both found the same masks; batches may round a pixel at the threshold otherwise."""
    for one, other in zip(figures.answers, plain.answers, strict=True):
        for answer, expected in zip(one['answers'], other['answers'], strict=True):
            masks = [np.asarray(Image.open(io.BytesIO(base64.b64decode(each['mask'])))) for each in (answer, expected)]
            if (masks[0] != masks[1]).mean() > 1e-3:
                raise RuntimeError(f'the server found another mask for {answer["sentence"]!r}')


if __name__ == '__main__':
    main()
