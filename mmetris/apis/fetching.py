"""``mmetris download``: which files a name needs, from where."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmetris.models.clip.dual_encoder import DualEncoder
from mmetris.models.clip.weights import tagged_file
from mmetris.utils.downloads import (
    MAIN,
    Fetched,
    cached_hub_file,
    fetch_hub_file,
    is_offline,
    list_hub_files,
    scheme_of,
    weights_path,
)
from mmetris.utils.encoder_files import EncoderFile, encoder_files, encoder_path, fetch_encoder
from mmetris.utils.tokenizer import TOKENIZER_CONFIG, TOKENIZER_FILES, HuggingFaceTokenizer

from .model_zoo import find_entry, is_training_free, package_root
from .published import Published, fetch_published, published_of


def download(
    name: str,
    file: str | None = None,
    revision: str = MAIN,
    local: str | os.PathLike | None = None,
    encoders: bool = False,
    options: Mapping[str, Any] | None = None,
    say: Callable[[str], Any] = print,
) -> list[Path]:
    """Fetch what a name needs, unless it is there.

    Args:
        name: A model of the index, a config file, or an encoder (:func:`~mmetris.utils.encoder_files.encoder_files`).
        file: Another file of the published weights' repo. Defaults to None: the known one.
        revision: Its branch, tag or commit. Defaults to ``'main'``.
        local: File of published weights that was fetched elsewhere. Defaults to None: the hub is asked.
        encoders: Whether the encoders that training starts from are fetched beside published weights. Defaults to
            False. They are always where there are no published weights.
        options: Options of the converter, see :data:`~mmetris.apis.published.OPTIONS`. Defaults to None.
        say: Told what is done, line by line.

    Returns:
        The files: weights, and those of encoders.

    Raises:
        FileNotFoundError: If there is nothing of that name, or it cannot be fetched; the message says which file from
            where goes into which place.
        ValueError: If a file is damaged, was exchanged, holds code, or is another model's; or an argument has no use.
    """
    known = {one.name: one for one in encoder_files().values()}.get(_encoder_name(name))
    published: Published | None = None
    config: Path | None = None
    label = name
    if known is None and (Path(name).suffix == '.py' or Path(name).is_file()):
        config = Path(name)
        if not config.is_file():
            raise FileNotFoundError(f'config file not found: {name}')
    elif known is None:
        entry, root = find_entry(name), package_root()
        published, config, label = published_of(entry, root), root / entry['Config'], entry['Name']
    if published is None and (file or local or options or revision != MAIN):
        raise ValueError(
            f'--file, --revision, --local and --set are for published weights to convert; {label} has none'
        )
    paths = []
    if known is not None:
        paths.append(_said(known.file, fetch_encoder(known), say))
    if published is not None:
        paths.append(fetch_published(published, file, revision, local, options, say)[1])
        say(f'ready: mmetris segment photo.jpg "the man in red" --model {published.name}')
    if config is not None and (encoders or published is None):
        content = Config.fromfile(config)
        training_free = is_training_free(content)
        if published is None and not training_free:
            say(f'{label}: nobody published weights that could be fetched; its encoders are, to train it')
        found = [_fetch_source(source, arch, say) for source, arch in encoder_sources(content)]
        found += [path for repo in tokenizer_repos(content) for path in _fetch_tokenizer(repo, say)]
        if not found:
            say(f'{label} names no files of encoders')
        paths += found
        if training_free:
            say(f'ready: mmetris segment photo.jpg --classes "person, dog, grass" --model {label}')
    return paths


def _encoder_name(name: str) -> str:
    """Upper case and the first underscore make no difference: ``dinov2_vitb14_reg`` is ``dinov2-vitb14_reg``."""
    return name.lower().replace('_', '-', 1) if name.lower().startswith(('clip_', 'dinov2_')) else name.lower()


def encoder_sources(config: Config) -> Iterator[tuple[str, Any]]:
    """Where a config's encoders take their weights from, each once, with the architecture that belongs to it.

    Args:
        config: The config.
    """
    seen = set()

    def walk(node: Any, arch: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(node, dict):
            arch = node.get('arch', arch)
            for key in ('clip_checkpoint', 'checkpoint'):
                source = node.get(key)
                if isinstance(source, str) and node.get('type') != 'Pretrained' and source not in seen:
                    seen.add(source)
                    yield source, arch
            for value in node.values():
                yield from walk(value, arch)
        elif isinstance(node, (list, tuple)):
            for value in node:
                yield from walk(value, arch)

    yield from walk(config.get('model', {}), None)


def tokenizer_repos(config: Config) -> list[str]:
    """Repos of Hugging Face's hub with the tokenizers that a config's text encoder needs, beside what ships with
    open_clip.

    Args:
        config: The config.
    """
    model = config.get('model', {})
    nodes = [model.get(part) or {} for part in ('dual_encoder', 'text_encoder')]
    if any(node.get('tokenizer') for node in nodes):  # Its files are where the config says.
        return []
    own = [DualEncoder.describe(node['arch']).tokenizer for node in nodes if node.get('arch')]
    return list(dict.fromkeys(one.source for one in own if isinstance(one, HuggingFaceTokenizer)))


def _fetch_tokenizer(repo: str, say: Callable[[str], Any]) -> list[Path]:
    """A tokenizer's files, into the hub's cache, where transformers finds them."""
    # Before the list of files: without a network its error names the file.
    first = _said(f'{TOKENIZER_CONFIG} of {repo}', fetch_hub_file(repo, TOKENIZER_CONFIG), say)
    has = [name for name in TOKENIZER_FILES if cached_hub_file(repo, name)] if is_offline() else list_hub_files(repo)
    names = [name for name in TOKENIZER_FILES if name in has and name != TOKENIZER_CONFIG]
    return [first, *(_said(f'{name} of {repo}', fetch_hub_file(repo, name), say) for name in names)]


def missing_sources(config: str | os.PathLike) -> list[str]:
    """Files of encoders that a config names and that are not on this machine; what has an address is not asked for.

    Args:
        config: The config's file.
    """
    sources = [source for source, _ in encoder_sources(Config.fromfile(config)) if scheme_of(source) is None]
    return [source for source in sources if not any(path.is_file() for path in _places_of(source))]


def _places_of(source: str) -> tuple[Path, Path]:
    """Where a file that a config names may be: here or where it was fetched to, or among those that ship."""
    return encoder_path(source), package_root() / source


def _fetch_source(source: str, arch: Any, say: Callable[[str], Any]) -> Path:
    """A file that a config names, wherever it is."""
    for there in _places_of(source):
        if there.is_file():
            say(f'{source}: here already -> {there}')
            return there
    known: EncoderFile | None = encoder_files().get(Path(source).name)
    if known is not None:
        return _said(known.file, fetch_encoder(known), say)
    if scheme_of(source) is not None:
        return weights_path(source)
    encoder = DualEncoder.describe(arch)
    return _said(f'{source} of {encoder.name}', tagged_file(source, encoder)[0], say)


def _said(name: str, fetched: Fetched, say: Callable[[str], Any]) -> Path:
    say(f'{name}: {fetched.told("here already")}')
    return fetched.path
