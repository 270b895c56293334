"""Files of weights from elsewhere: Hugging Face's hub and plain addresses, resumable, and checked before they have
their name.

A file of the hub goes into the hub's own cache (``HF_HOME``), where other programs find it; what stands at a plain
address goes into mmetris's part of the hub's assets. ``HF_ENDPOINT``, ``HF_HUB_OFFLINE`` and ``HF_TOKEN`` mean what
they mean to ``huggingface_hub``.
"""

from __future__ import annotations

import hashlib
import os
import re
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import (
    HfApi,
    cached_assets_path,
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers

from mmetris.version import __version__

from .checkpoint_io import put_in_place, remove, unfinished_path
from .files import check_ordinary, scheme_of

HUB = 'hf://'  # hf://owner/name/path/of/file, or hf://owner/name@revision/path/of/file, as in huggingface_hub.
SHIPPED = 'mmetris://'  # A file inside the package.
MAIN = constants.DEFAULT_REVISION
_SHA256 = re.compile('[0-9a-f]{64}')
_GIT_SHA1 = re.compile('[0-9a-f]{40}')


class NotFetchedError(FileNotFoundError):
    """A file is not on this machine and could not be fetched; the message says from where it comes."""


class Fetched(NamedTuple):
    """A file that is here.

    Args:
        path: Where.
        size: Bytes.
        received: How many of them came over the network now; 0 if it was here.
        checked: By what it was compared with its source, for people.
        sha256: Its checksum, where that was computed on the way.
    """

    path: Path
    size: int
    received: int
    checked: str
    sha256: str | None = None

    def told(self, if_here: str) -> str:
        """Size, what came, and what it was compared with, in words.

        Args:
            if_here: What is said where nothing came over the network.
        """
        received = f'{self.received:,} of them received now' if self.received else if_here
        compared = 'nothing to compare it with' if self.checked == 'nothing' else f'{self.checked} agrees'
        return f'{self.size:,} bytes, {received}, {compared} -> {self.path}'


def assets_folder(namespace: str, name: str) -> Path:
    """A folder for files that mmetris fetched or converted, made where it is missing: ``HF_HOME/assets/mmetris/...``.

    Args:
        namespace: Kind of files.
        name: Which of them.
    """
    return cached_assets_path('mmetris', namespace, name, assets_dir=constants.HF_ASSETS_CACHE)


def weights_path(source: str | os.PathLike) -> Path:
    """The file that a source of weights means; what is elsewhere is fetched, once.

    Args:
        source: A file; ``https://`` (or ``http://``); ``hf://owner/name/file`` or ``hf://owner/name@revision/file`` of
            Hugging Face's hub; ``file://``; ``mmetris://`` for what ships with the package.

    Returns:
        A path, which need not exist if ``source`` is a file name.

    Raises:
        NotFetchedError: If it is not here and cannot be fetched, or does not ship.
        ValueError: If the address is of another kind, what came is not what was announced, or it is a pipe or device.
    """
    text = os.fspath(source)
    scheme = scheme_of(text)
    if scheme is None:
        path = Path(text).expanduser()
        check_ordinary(path)
        return path
    if scheme in ('http', 'https'):
        return fetch_address(text).path
    if scheme == 'hf':
        repo_id, revision, file = split_hub_address(text)
        if file is None:
            raise ValueError(f'{text} names a repo but no file in it: {HUB}owner/name/FILE')
        return fetch_hub_file(repo_id, file, revision).path
    if scheme == 'mmetris':
        from mmetris.apis.model_zoo import shipped_file

        return Path(shipped_file(text))
    if scheme == 'file':
        parts = urllib.parse.urlsplit(text)
        if parts.netloc not in ('', 'localhost'):
            raise ValueError(f'{text} names a file of another machine ({parts.netloc}): copy it here and give its path')
        return Path(urllib.request.url2pathname(parts.path))
    raise ValueError(
        f'{text}: weights are not read from {scheme}:// addresses. Give a file, or an address of https://, {HUB}, '
        f'file:// or {SHIPPED}'
    )


def split_hub_address(address: str) -> tuple[str, str, str | None]:
    """Repo, revision and file of ``hf://owner/name[@revision][/file]``.

    Args:
        address: The address. A revision with a slash in it is written with ``%2F``.

    Raises:
        ValueError: If it names no repo.
    """
    match = re.fullmatch(r'hf://([\w.-]+)/([\w.-]+)(?:@([^/]+))?(?:/(.+?))?/?', address, re.IGNORECASE)
    if match is None:
        raise ValueError(f'{address} names no repo of the hub: {HUB}owner/name/FILE, {HUB}owner/name@REVISION/FILE')
    owner, name, revision, file = match.groups()
    return f'{owner}/{name}', urllib.parse.unquote(revision or MAIN), file


def hub_address(repo_id: str, file: str | None = None, revision: str = MAIN) -> str:
    """Where people look at a repo, or fetch a file of it, in the browser.

    Args:
        repo_id: ``owner/name``.
        file: Path of the file in it. Defaults to None: the repo.
        revision: Branch, tag or commit.
    """
    if file is None:
        return f'{endpoint() or constants.ENDPOINT}/{repo_id}'
    return hf_hub_url(repo_id, file, revision=revision, endpoint=endpoint())


def endpoint() -> str | None:
    """``HF_ENDPOINT`` as it is now; huggingface_hub reads it once, when it is imported."""
    return os.environ.get('HF_ENDPOINT', '').rstrip('/') or None


def is_offline() -> bool:
    """Whether the hub is not to be asked (``HF_HUB_OFFLINE``)."""
    return bool(constants.HF_HUB_OFFLINE)


def list_hub_files(repo_id: str, revision: str = MAIN, token: str | bool | None = None) -> list[str]:
    """Files of a repo of the hub.

    Args:
        repo_id: ``owner/name``.
        revision: Branch, tag or commit.
        token: Who asks, as in huggingface_hub. Defaults to None: who is logged in.

    Raises:
        NotFetchedError: If it cannot be asked, or there is no such repo.
    """
    try:
        info = HfApi(endpoint=endpoint(), token=token).model_info(repo_id, revision=revision)
    except Exception as error:  # Whatever the client raises without a network.
        raise NotFetchedError(_why(error, repo_id, None, revision)) from error
    return sorted(file.rfilename for file in info.siblings or [])


def cached_hub_file(
    repo_id: str, file: str, revision: str = MAIN, cache_dir: str | os.PathLike | None = None
) -> Path | None:
    """A file of the hub that is in its cache, without asking the hub; None if it is not.

    Args:
        repo_id: ``owner/name``.
        file: Path of the file in it.
        revision: Branch, tag or commit.
        cache_dir: Defaults to None: ``HF_HOME/hub``, or ``HF_HUB_CACHE``.
    """
    found = try_to_load_from_cache(repo_id, file, Path(cache_dir or constants.HF_HUB_CACHE), revision)
    return Path(found) if isinstance(found, str) else None


def fetch_hub_file(
    repo_id: str,
    file: str,
    revision: str = MAIN,
    sha256: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
) -> Fetched:
    """A file of Hugging Face's hub, from its cache or fetched into it.

    It is received beside its place in the cache, from where an interrupted download goes on, and compared with the
    hub's own checksum (sha256 of a large file, git's sha1 of a small one) before it gets its name. The hub's client
    compares sizes alone.

    Args:
        repo_id: ``owner/name``.
        file: Path of the file in it.
        revision: Branch, tag or commit.
        sha256: What the file must have besides. Defaults to None: what the hub says.
        token: Who asks, as in huggingface_hub. Defaults to None: who is logged in, or nobody.
        cache_dir: Defaults to None: ``HF_HOME/hub``, or ``HF_HUB_CACHE``.
        local_files_only: Whether not to ask the hub. Defaults to False; ``HF_HUB_OFFLINE=1`` means the same.

    Raises:
        NotFetchedError: If it is not here and cannot be fetched.
        ValueError: If it is not what the hub announced, or not of ``sha256``.
    """
    address = hub_address(repo_id, file, revision)
    cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser()
    if local_files_only or is_offline():
        found = cached_hub_file(repo_id, file, revision, cache)
        if found is None:
            reason = 'HF_HUB_OFFLINE is set' if is_offline() else 'local_files_only=True'
            raise NotFetchedError(f'{file} of {repo_id} ({address}) is not in {cache}, and {reason}')
        return _known(found, address, sha256)
    headers = build_hf_headers(token=token, library_name='mmetris', library_version=__version__)
    try:
        metadata = get_hf_file_metadata(address, token=token)
    except (EntryNotFoundError, RevisionNotFoundError, RepositoryNotFoundError) as error:
        raise NotFetchedError(_why(error, repo_id, file, revision)) from error
    except Exception as error:  # Whatever the client raises without a network.
        if (found := cached_hub_file(repo_id, file, revision, cache)) is not None:
            return _known(found, address, sha256)
        raise NotFetchedError(_why(error, repo_id, file, revision)) from error
    etag, size = metadata.etag, metadata.size
    if not etag or not metadata.commit_hash:
        raise NotFetchedError(
            f'{address} is not answered as Hugging Face answers: no ETag or no commit. Is it a proxy?'
        )
    if sha256 is not None and _SHA256.fullmatch(etag) and etag != sha256:
        raise ValueError(
            f'{address} has sha256 {etag}, but {sha256} is known for it: it was replaced. Name it with --file, or an '
            'earlier --revision, if it is to be used all the same'
        )
    blob = cache / repo_folder_name(repo_id=repo_id, repo_type='model') / 'blobs' / etag
    received = _receive(address, blob, headers, size, etag, lambda path: _check(path, address, size, etag, sha256))
    if not received:  # Another program put it there, which compares sizes alone.
        _known(blob, address, sha256)
    try:  # The blob is there: the client gives it its name in the snapshot of the commit.
        place = hf_hub_download(
            repo_id, file, revision=revision, cache_dir=cache, token=token, endpoint=endpoint(), headers=headers
        )
    except Exception as error:
        raise NotFetchedError(_why(error, repo_id, file, revision)) from error
    is_sha256 = _SHA256.fullmatch(etag) is not None
    checked = 'sha256' if is_sha256 else 'git sha1' if _GIT_SHA1.fullmatch(etag) else 'size'
    return Fetched(Path(place), blob.stat().st_size, received, checked, etag if is_sha256 else None)


def fetch_first_hub_file(repo_id: str, files: Sequence[str], revision: str = MAIN) -> Fetched:
    """The first of several files that a repo of the hub has, see :func:`fetch_hub_file`; one that is here comes first.

    Args:
        repo_id: ``owner/name``.
        files: Their paths in it, the most welcome first.
        revision: Branch, tag or commit.

    Raises:
        NotFetchedError: If there is none, or it cannot be fetched.
        ValueError: If it is not what the hub announced.
    """
    here = [file for file in files if cached_hub_file(repo_id, file, revision) is not None]
    *others, last = here or files
    for file in others:
        try:
            return fetch_hub_file(repo_id, file, revision)
        except NotFetchedError as error:
            if not isinstance(error.__cause__, EntryNotFoundError):  # A download that broke off is gone on from.
                raise
    return fetch_hub_file(repo_id, last, revision)


def fetch_address(address: str, path: str | os.PathLike | None = None, sha256: str | None = None) -> Fetched:
    """What stands at a plain address, fetched once.

    Args:
        address: ``https://`` or ``http://``.
        path: The file it becomes. Defaults to None: one in :func:`assets_folder` that belongs to this very address, so
            that equal names at several addresses are several files.
        sha256: What it must have. Defaults to None: only the size is compared with what the server announced.

    Raises:
        NotFetchedError: If it is not here and cannot be fetched.
        ValueError: If it has another sha256.
    """
    if path is None:
        name = Path(urllib.parse.unquote(urllib.parse.urlsplit(address).path)).name or 'weights'
        path = assets_folder('addresses', hashlib.sha256(address.encode()).hexdigest()[:20]) / name
    path = Path(path)
    if path.is_file():
        return _known(path, address, sha256)
    if is_offline():
        raise NotFetchedError(f'{address} is not on this machine ({path}), and HF_HUB_OFFLINE is set')
    headers = build_hf_headers(token=False, library_name='mmetris', library_version=__version__)
    size, etag = None, None
    try:
        metadata = get_hf_file_metadata(address, token=False)
        size, etag = metadata.size, metadata.etag
    except HfHubHTTPError as error:
        if error.response.status_code not in (403, 405, 501):  # Some servers answer no such question, and yet the next.
            raise NotFetchedError(f'{address} could not be fetched ({_short(error)})') from error
    except Exception as error:  # Whatever the client raises without a network.
        raise NotFetchedError(f'{address} could not be fetched ({_short(error)})') from error

    def check(file: Path) -> None:
        _check(file, address, size, '', sha256)

    # Without a checksum a part may be gone on from only if the server still has the same file.
    part = sha256 or etag
    received = _receive(address, path, headers, size, part, check)
    checked = 'sha256' if sha256 else 'size' if size else 'nothing'
    return Fetched(path, path.stat().st_size, received, checked, sha256)


def sha256_of(path: str | os.PathLike) -> str:
    """Checksum of a file, in hexadecimal digits."""
    return _digest(path, hashlib.sha256())


def _digest(path: str | os.PathLike, digest: Any) -> str:
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _receive(
    address: str,
    path: Path,
    headers: dict[str, str],
    size: int | None,
    part: str | None,
    check: Callable[[Path], None],
) -> int:
    """Receive a file beside its place, check it, and give it its name.

    Args:
        address: From where.
        path: Its place.
        headers: Of the request.
        size: Bytes that were announced, None if unknown.
        part: What tells this content from others at the address; an earlier part of it is gone on from. None: it is
            received from its beginning.
        check: Raises ValueError unless the file is right.

    Returns:
        Bytes that were received; 0 if the file was there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = hashlib.sha256((part or '').encode()).hexdigest()[:8]
    unfinished = unfinished_path(path).with_suffix(f'.{mark}{unfinished_path(path).suffix}')
    if path.is_file():
        return 0
    lock = unfinished.with_name(unfinished.name + '.lock')
    with WeakFileLock(lock):
        if path.is_file():  # Another process received it meanwhile.
            return 0
        done = unfinished.stat().st_size if part and unfinished.is_file() else 0
        if done == 0 or (size is not None and done > size):
            remove(unfinished)
            done = 0
        try:
            with open(unfinished, 'ab') as file:
                http_get(address, file, resume_size=done, headers=headers, expected_size=size)
        except Exception as error:  # Whatever the client raises when a connection breaks.
            have = unfinished.stat().st_size if unfinished.is_file() else 0
            of = '' if size is None else f' of {size:,}'
            again = 'the same command goes on from there' if part and have else 'the same command begins anew'
            raise NotFetchedError(f'{address} broke off after {have:,}{of} bytes ({_short(error)}); {again}') from error
        try:
            check(unfinished)
        except ValueError:
            remove(unfinished)
            raise
        received = unfinished.stat().st_size - done
        put_in_place(unfinished, path)
    remove(lock)
    return received


def _check(path: Path, address: str, size: int | None, etag: str, sha256: str | None) -> None:
    """Raise ValueError unless a file has the size and the checksums that were announced or known."""
    found = path.stat().st_size
    if size is not None and found != size:
        raise ValueError(f'{address} gave {found:,} bytes, {size:,} were announced; nothing was kept, try again')
    expected = sha256 or (etag if _SHA256.fullmatch(etag) else None)
    if expected is not None:
        actual = sha256_of(path)
    elif _GIT_SHA1.fullmatch(etag):
        expected = etag
        actual = _digest(path, hashlib.sha1(b'blob %d\0' % found, usedforsecurity=False))  # As git names content.
    else:
        return
    if actual != expected:
        kind = 'sha256' if len(expected) == 64 else 'git sha1'
        raise ValueError(
            f'{address} gave a file of {kind} {actual}, {expected} was expected: it is damaged or was exchanged on the '
            'way; nothing was kept'
        )


def _known(path: Path, address: str, sha256: str | None) -> Fetched:
    """A file that was here, compared with what it must be.

    The hub's cache calls a large file by its sha256.
    """
    name = path.resolve().name
    expected = sha256 or (name if _SHA256.fullmatch(name) else None)
    if expected is not None and (actual := sha256_of(path)) != expected:
        raise ValueError(
            f'{path} has sha256 {actual}, {expected} was expected: it is damaged, or is not {address}. Remove it, and '
            'it is fetched again'
        )
    return Fetched(path, path.stat().st_size, 0, 'nothing' if expected is None else 'sha256', expected)


def _why(error: Exception, repo_id: str, file: str | None, revision: str) -> str:
    """What went wrong with the hub, and what to do."""
    where = hub_address(repo_id)
    if isinstance(error, GatedRepoError):
        return f'{where} is gated: ask for access there, then log in ("hf auth login", or HF_TOKEN)'
    if isinstance(error, RevisionNotFoundError):
        return f'{where} has no revision {revision!r}'
    if isinstance(error, RepositoryNotFoundError):
        return f'there is no {where}, or it is private: log in ("hf auth login", or HF_TOKEN)'
    if isinstance(error, EntryNotFoundError) and file is not None:
        try:
            files = ', '.join(list_hub_files(repo_id, revision))
        except NotFetchedError as other:
            files = f'(not told: {other})'
        return f'{where} has no {file} at {revision}; its files: {files}'
    what = repo_id if file is None else f'{file} of {repo_id}'
    return f'{what} could not be fetched from {hub_address(repo_id, file, revision)} ({_short(error)})'


def _short(error: Exception) -> str:
    text = ' '.join(str(error).split())
    return f'{type(error).__name__}: {text[:200]}' if text else type(error).__name__
