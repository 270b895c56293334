"""Hugging Face's hub of tiny files on this machine's loopback: what its client asks for when it fetches and sends."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

COMMIT = 'c' * 40
API = re.compile(r'/api/models/([\w.-]+/[\w.-]+)(?:/(revision|preupload|commit)/(.+))?')
FILE = re.compile(r'/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)')


def ask_toy_hub(server: ToyHub, home: Path, monkeypatch: pytest.MonkeyPatch) -> ToyHub:
    """Have the hub's client ask this one, made anew, with empty caches and whatever the shell says.

    Args:
        server: The hub.
        home: Where the caches are.
        monkeypatch: Puts all back at the end of the test.
    """
    server.reset()
    monkeypatch.setenv('HF_ENDPOINT', server.address)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(home / 'hub'))
    monkeypatch.setattr(constants, 'HF_ASSETS_CACHE', str(home / 'assets'))
    return server


class ToyHub:
    """Repos in memory, and what was asked.

    Attributes:
        address: What ``HF_ENDPOINT`` is to be.
        repos: Files by their names, by repos.
        small: Names of files whose ETag is git's sha1; that of any other is its sha256.
        break_after: Bytes after which a connection is closed, of the next answer; None for none.
        wrong: Names of files whose content is exchanged for as many other bytes on the way.
        asked: Method, path and range of each request.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.small: set[str] = set()
        self.wrong: set[str] = set()
        self.break_after: list[int] = []
        self.asked: list[tuple[str, str, str | None]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                hub.answer(self)

            def do_POST(self) -> None:
                hub.take(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.server.daemon_threads = True
        self.address = f'http://127.0.0.1:{self.server.server_port}'
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def reset(self) -> None:
        """As it was made, at the same address."""
        for kept in (self.repos, self.small, self.wrong, self.break_after, self.asked):
            kept.clear()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def gets(self) -> list[tuple[str, str | None]]:
        """Path and range of the files that were fetched."""
        return [(path, part) for method, path, part in self.asked if method == 'GET' and '/api/' not in path]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path)
        self.asked.append((request.command, path, request.headers.get('Range')))
        if match := API.fullmatch(path):
            repo, _, revision = match.groups()
            if repo not in self.repos:
                return _refuse(request, 'RepoNotFound')
            if revision not in (None, 'main', COMMIT):
                return _refuse(request, 'RevisionNotFound')
            files = [dict(rfilename=name) for name in self.repos[repo]]
            return _send_json(request, dict(id=repo, modelId=repo, sha=COMMIT, siblings=files, tags=[]))
        if not (match := FILE.fullmatch(path)):
            return _refuse(request, 'EntryNotFound')
        repo, revision, name = match.groups()
        if repo not in self.repos:
            return _refuse(request, 'RepoNotFound')
        if revision not in ('main', COMMIT):
            return _refuse(request, 'RevisionNotFound')
        if name not in self.repos[repo]:
            return _refuse(request, 'EntryNotFound')
        content = self.repos[repo][name]
        etag = hashlib.sha256(content).hexdigest()
        if name in self.small:
            etag = hashlib.sha1(b'blob %d\0' % len(content) + content).hexdigest()
        start = 0
        if part := request.headers.get('Range'):
            start = int(part.removeprefix('bytes=').rstrip('-').split('-')[0])
        request.send_response(206 if part else 200)
        for key, value in {
            'ETag': f'"{etag}"',
            'X-Linked-Etag': f'"{etag}"',
            'X-Linked-Size': str(len(content)),
            'X-Repo-Commit': COMMIT,
            'Content-Length': str(len(content) - start),
            **({'Content-Range': f'bytes {start}-{len(content) - 1}/{len(content)}'} if part else {}),
        }.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command == 'HEAD':
            return None
        body = (b'x' * len(content) if name in self.wrong else content)[start:]
        if self.break_after and len(body) > (end := self.break_after.pop(0)):
            request.wfile.write(body[:end])
            request.wfile.flush()
            request.close_connection = True
            request.connection.shutdown(2)
        else:
            request.wfile.write(body)
        return None

    def take(self, request: BaseHTTPRequestHandler) -> None:
        """What is sent: a new repo, which files are to come, and a commit with them."""
        path = unquote(urlsplit(request.path).path)
        body = request.rfile.read(int(request.headers.get('Content-Length') or 0))
        if request.headers.get('Transfer-Encoding') == 'chunked':
            body = _chunks(request)
        self.asked.append(('POST', path, None))
        if path == '/api/repos/create':
            told = json.loads(body)
            repo = '/'.join(filter(None, (told.get('organization'), told['name'])))
            self.repos.setdefault(repo, {})
            return _send_json(request, dict(url=f'{self.address}/{repo}', name=repo))
        if path == '/api/validate-yaml':
            return _send_json(request, dict(errors=[], warnings=[]))
        match = API.fullmatch(path)
        assert match, path
        repo, kind, _ = match.groups()
        if kind == 'preupload':
            files = [
                dict(path=file['path'], uploadMode='regular', shouldIgnore=False) for file in json.loads(body)['files']
            ]
            return _send_json(request, dict(files=files))
        for line in map(json.loads, body.splitlines()):
            if line['key'] == 'file':
                self.repos[repo][line['value']['path']] = base64.b64decode(line['value']['content'])
        url = f'{self.address}/{repo}/commit/{COMMIT}'
        return _send_json(request, dict(commitUrl=url, commitOid=COMMIT, pullRequestUrl=None))


def _chunks(request: BaseHTTPRequestHandler) -> bytes:
    body = b''
    while size := int(request.rfile.readline(), 16):
        body += request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()
    return body


def _send_json(request: BaseHTTPRequestHandler, content: object) -> None:
    body = json.dumps(content).encode()
    request.send_response(200)
    request.send_header('Content-Type', 'application/json')
    request.send_header('Content-Length', str(len(body)))
    request.end_headers()
    if request.command != 'HEAD':
        request.wfile.write(body)


def _refuse(request: BaseHTTPRequestHandler, code: str) -> None:
    request.send_response(404)
    request.send_header('X-Error-Code', code)
    request.send_header('Content-Length', '0')
    request.end_headers()
