"""Weights that others published in their own layout: fetched, converted once, and found by name afterwards."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from mmetris.models.backbones.dinov2_tower import resolve_sizes
from mmetris.models.converters import CRIS, DETRIS, ETRIS, ConvertedCheckpoint, PublishedCode
from mmetris.utils.checkpoint_io import put_in_place, remove, unfinished_path
from mmetris.utils.downloads import (
    MAIN,
    NotFetchedError,
    assets_folder,
    fetch_hub_file,
    hub_address,
    list_hub_files,
    sha256_of,
)

from .conversion import convert_file

CODES: Mapping[str, PublishedCode] = dict(ETRIS=ETRIS, CRIS=CRIS, DETRIS=DETRIS)
# What shapes do not tell, see the converters' command lines.
OPTIONS = ('head_heads', 'align_heads', 'bridger_heads', 'text_heads', 'image_heads', 'out_blocks', 'context_length')
FORMAT = 1  # Of converted folders. Those of another number are made anew.


class Published(NamedTuple):
    """Published weights of a model of the index, as ``Published`` of its metafile tells.

    Args:
        name: Name of the model.
        config: Its config: what surrounds the converted model.
        code: Whose layout they have, of :data:`CODES`.
        repo: Repo of Hugging Face's hub, ``owner/name``.
        file: Path in it; None where it is not known.
        sha256: Checksum of the file, None where it is not known.
        seen: Whether the file's name was found in a public source, and not only supposed.
        options: Options of the converter.
    """

    name: str
    config: Path
    code: str
    repo: str
    file: str | None
    sha256: str | None
    seen: bool
    options: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Where the converted model is, or is to be."""
        return assets_folder('converted', self.name)


def published_of(entry: Mapping[str, Any], root: Path) -> Published | None:
    """Published weights of an entry of the model index, None if there are none.

    Args:
        entry: The entry.
        root: The folder that its paths start from.
    """
    told = entry.get('Published')
    if told is None:
        return None
    return Published(
        name=entry['Name'],
        config=root / entry['Config'],
        code=told['Code'],
        repo=told['Repo'],
        file=told.get('File'),
        sha256=told.get('SHA256'),
        seen=told.get('File Seen', False),
        options=told.get('Options', {}),
    )


def converted_files(published: Published) -> tuple[Path, Path] | None:
    """Config and weights of the converted model, None if they are not on this machine.

    Args:
        published: The published weights.
    """
    folder = published.folder
    config, weights = folder / 'config.py', folder / 'model.pth'
    origin = _origin(folder)
    return (config, weights) if origin.get('format') == FORMAT and config.is_file() and weights.is_file() else None


def _origin(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / 'source.json').read_text(encoding='utf-8')))
    except (OSError, ValueError, TypeError):
        return {}


def fetch_published(
    published: Published,
    file: str | None = None,
    revision: str = MAIN,
    local: str | os.PathLike | None = None,
    options: Mapping[str, Any] | None = None,
    say: Callable[[str], Any] = print,
) -> tuple[Path, Path]:
    """Fetch published weights, convert them, and keep the result, unless it is there.

    Args:
        published: Which.
        file: Another file of the repo. Defaults to None: the one that the index names.
        revision: Branch, tag or commit of the repo. Defaults to ``'main'``.
        local: A file that was fetched elsewhere; nothing is asked for. Defaults to None.
        options: Options of the converter (:data:`OPTIONS`) that differ from the published models'. Defaults to None.
        say: Told what is done, line by line.

    Returns:
        Config and weights of the converted model.

    Raises:
        NotFetchedError: If the file cannot be fetched, or is not told; the message names the repo's files.
        ValueError: If it is damaged, was exchanged, holds code, or is none of that published code.
    """
    options = dict(options or {})
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise ValueError(f'{", ".join(unknown)} is no option of the converter; those are {", ".join(OPTIONS)}')
    context_length = Config.fromfile(published.config).get('context_length', 17)
    options = dict(context_length=context_length) | dict(published.options) | options
    if local is not None:
        source, origin = Path(local).expanduser(), dict[str, Any](file=Path(local).name)
        if not source.is_file():
            raise FileNotFoundError(f'{local} is not there')
        say(f'{source}: {source.stat().st_size:,} bytes')
        origin['sha256'] = sha256_of(source)
    else:
        source, origin = _fetch(published, file, revision, say)
    origin |= dict(format=FORMAT, code=published.code, options={key: options[key] for key in sorted(options)})
    folder = published.folder
    found = converted_files(published)
    if found is not None and _origin(folder) == json.loads(json.dumps(origin)):
        say(f'converted before: {found[1]}')
        return found
    family = {'DETRIS': 'dinov2'}.get(published.code)
    recipes = dict.fromkeys([family] if family else ('resnet', 'vit'), published.config)
    unfinished = unfinished_path(folder)
    remove(unfinished)
    try:
        converted = convert_file(CODES[published.code], source, unfinished, recipes, **options)
        _compare(converted, published, say)
        (unfinished / 'source.json').write_text(json.dumps(origin, indent=1) + '\n', encoding='utf-8')
        put_in_place(unfinished, folder)
    finally:
        remove(unfinished)
    size = (folder / 'model.pth').stat().st_size
    say(f'converted: {len(converted.names)} keys, none left over -> {folder / "model.pth"}, {size:,} bytes')
    return folder / 'config.py', folder / 'model.pth'


def _compare(converted: ConvertedCheckpoint, published: Published, say: Callable[[str], Any]) -> None:
    """Tell if the image encoder of a file is not that of the model of its name."""
    expected = Config.fromfile(published.config).model
    if published.code == 'DETRIS':
        archs = (converted.model_cfg['backbone']['arch'], expected.backbone.arch)
        own, wanted = (resolve_sizes(arch)[1] for arch in archs)
        if (own.width, own.depth, own.num_registers) != (wanted.width, wanted.depth, wanted.num_registers):
            say(
                f'note: a DINOv2 of width {own.width}, {own.depth} blocks and {own.num_registers} registers; that of '
                f'{published.name} has {wanted.width}, {wanted.depth} and {wanted.num_registers}: is it the right file?'
            )


def _fetch(
    published: Published, file: str | None, revision: str, say: Callable[[str], Any]
) -> tuple[Path, dict[str, Any]]:
    """The published file, and where it came from."""
    name = file or published.file
    if name is None:
        raise NotFetchedError(
            f'which file of {hub_address(published.repo)} is {published.name} is not known here: name it with --file. '
            f'Its files: {", ".join(list_hub_files(published.repo, revision))}'
        )
    try:
        # A file that was chosen by hand is another one: only the hub's own checksum counts.
        fetched = fetch_hub_file(published.repo, name, revision, published.sha256 if file is None else None)
    except NotFetchedError as error:
        supposed = '' if file or published.seen else f' That it is called {name} is supposed, not known: see --file.'
        raise NotFetchedError(
            f'{error}.{supposed} Without a network: fetch {hub_address(published.repo, name, revision)} elsewhere, and '
            f'run "mmetris download {published.name} --local FILE"'
        ) from error
    say(f'{name} of {published.repo}: {fetched.told("found in the cache")}')
    sha256 = fetched.sha256 or sha256_of(fetched.path)
    return fetched.path, dict(repo=published.repo, file=name, sha256=sha256)
