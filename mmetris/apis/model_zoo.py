"""Which config and which weights are meant: a config file, a name of the model index, a folder of a training, or
nothing (the demo model that ships with mmetris)."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from mmengine.config import Config

from mmetris.package import PACKAGE, find_root
from mmetris.registry import MODELS
from mmetris.utils.config_options import read_config
from mmetris.utils.config_types import class_of
from mmetris.utils.downloads import HUB, SHIPPED, NotFetchedError, hub_address, scheme_of, weights_path

from .published import converted_files, published_of

DEMO_CONFIG = 'configs/etris/etris_tiny_long-192px_shapes.py'
DEMO_WEIGHTS = 'pretrained/etris_tiny_long-192px_shapes.pth'


# Addresses in the metafiles: a file inside the package (SHIPPED), and none. A slash ends both for MIM:
# pretrained/metafile.yml.
NOT_PUBLISHED = 'mmetris://not-published/'


class ModelFiles(NamedTuple):
    """A model to build.

    Attributes:
        config: Its config; paths of CLIP weights that ship with mmetris are complete.
        weights: Its checkpoint, a file; None where the model is frozen encoders alone, which are not trained, or
            classifies as zero-shot CLIP.
    """

    config: Config
    weights: str | None


# Where the models that name a class for a picture are; their class says ``gives_classes = True``.
CLASSIFIERS = 'projects/classification/configs'
SEGMENTS_NOTHING = (
    'names the class of a picture and segments nothing: it is for "mmetris classify", in Python for '
    'mmetris.apis.ImageClassificationInferencer'
)


def package_root() -> Path:
    """The folder with ``configs``, ``pretrained`` and ``model-index.yml``: the checkout, or ``mmetris/.mim`` where the
    package is installed.

    Raises:
        FileNotFoundError: If neither has them.
    """
    root = find_root('configs', 'model-index.yml')
    if root is None:
        raise FileNotFoundError(f'no configs beside {PACKAGE} or in {PACKAGE / ".mim"}; install mmetris again')
    return root


def indexed_models() -> Iterator[dict[str, Any]]:
    """Entries of the model index: ``Name``, ``Config``, perhaps ``Alias``, ``Weights`` where there are any, and
    ``Published`` where others published some in their own layout (:mod:`mmetris.apis.published`).

    Weights that ship with mmetris are named relative to :func:`package_root`, others by their address.
    """
    root = package_root()
    for metafile in yaml.safe_load((root / 'model-index.yml').read_text(encoding='utf-8'))['Import']:
        for entry in yaml.safe_load((root / metafile).read_text(encoding='utf-8'))['Models']:
            weights = entry.pop('Weights', NOT_PUBLISHED)
            if weights != NOT_PUBLISHED:
                entry['Weights'] = weights.removeprefix(SHIPPED).rstrip('/')
            yield entry


def shipped_file(address: str) -> str:
    """The file of weights that ship with mmetris.

    Args:
        address: ``mmetris://pretrained/<name>.pth``, as in the metafiles; MMEngine loads it as it stands.

    Raises:
        NotFetchedError: If mmetris has no such weights; the message says whether any belong to the model.
    """
    if address.rstrip('/') == NOT_PUBLISHED.rstrip('/'):
        raise NotFetchedError(
            'there are no weights of mmetris for this model: train it (tools/train.py), and give the checkpoint'
        )
    file = package_root() / address.removeprefix(SHIPPED).rstrip('/')
    if not file.is_file():
        raise NotFetchedError(f'{address} does not ship with mmetris: there is no {file}')
    return str(file)


def find_model(
    model: str | os.PathLike | Config | None = None,
    weights: str | os.PathLike | None = None,
    classifies: bool | None = None,
) -> ModelFiles:
    """Find config and weights.

    Args:
        model: Config file; name in the model index (``mmetris models`` lists them); folder of a training, which has a
            config and checkpoints; a shared model, ``hf://owner/name`` or its folder (:mod:`mmetris.apis.hub`); or a
            config that was read already. Defaults to None: the demo model.
        weights: Checkpoint, a file or an address (``https://``, ``hf://owner/name/file``; ``mmetris://`` for what
            ships with mmetris). Defaults to None: those that belong to ``model``. In the folder of a training these
            are the best ones, or the last where none was chosen.
        classifies: Whether a model is wanted that names the class of a picture (True), or one that does not (False).
            Defaults to None: any.

    Raises:
        FileNotFoundError: If model or weights are not there; the message says what to do.
        ValueError: If it is not clear which of several configs of a folder is meant, or the model is of the other kind
            than is wanted.
        TypeError: If ``model`` is none of the above.
    """
    if isinstance(model, Config):
        config, name, found = model.copy(), model.filename or 'the config', None
    elif model is None:
        root = package_root()
        config, name, found = Config.fromfile(root / DEMO_CONFIG), 'the demo model', str(root / DEMO_WEIGHTS)
    elif isinstance(model, (str, os.PathLike)):
        name = os.fspath(model)
        path = Path(name).expanduser()
        if scheme_of(name) == 'hf' or (path / 'config.json').is_file():
            from .hub import find_shared  # It finds the models that it sends here.

            shared = find_shared(name)
            _check_kind(shared.config, name, classifies)
            return ModelFiles(shared.config, str(shared.weights if weights is None else weights_path(weights)))
        if path.is_dir():
            config_file, found = _of_folder(path, weights is None)
        elif path.is_file():
            config_file, found = path, None
        else:
            config_file, found = _of_index(name, weights is None)
        config = read_config(config_file)
    else:
        raise TypeError(
            f'model must be a config file, a name, a folder or a mmengine Config, not {type(model).__name__}'
        )
    _check_kind(config, name, classifies)
    complete_clip_paths(config.get('model', {}))
    if weights is not None:
        found = os.fspath(weights)
    elif found is None and (is_training_free(config) or gives_classes(config)):
        return ModelFiles(config, None)
    elif found is None:
        raise FileNotFoundError(f'no weights for {name}: give weights=CHECKPOINT (--weights on the command line)')
    found = str(weights_path(found))
    if not Path(found).is_file():
        what = ' is a folder' if Path(found).is_dir() else ''
        raise FileNotFoundError(f'the weights of {name} are missing: {found}{what}')
    return ModelFiles(config, found)


def is_training_free(config: Config) -> bool:
    """Whether the model of a config needs no checkpoint, since its weights are those of its encoders.

    Args:
        config: The config.
    """
    return _says(config, 'is_training_free')


def gives_classes(config: Config) -> bool:
    """Whether the model of a config names the class of a picture.

    Args:
        config: The config.
    """
    return _says(config, 'gives_classes')


def _says(config: Config, name: str) -> bool:
    """Whether the class of a config's model has a true attribute of this name."""
    model = config.get('model') or {}
    return bool('type' in model and getattr(class_of(model, MODELS), name, False))


def _check_kind(config: Config, name: str, classifies: bool | None) -> None:
    """Stop where a model is of the other kind than is wanted."""
    if classifies is None or classifies == gives_classes(config):
        return
    if classifies:
        raise ValueError(
            f'{name} does not classify pictures: models of {CLASSIFIERS} do, and "mmetris segment" is for this one'
        )
    raise ValueError(f'{name} {SEGMENTS_NOTHING}')


def _of_folder(folder: Path, with_weights: bool) -> tuple[Path, str | None]:
    """Config and checkpoint of a training's folder."""
    configs = sorted(folder.glob('*.py'))
    if not configs:
        raise FileNotFoundError(f'{folder} has no config (*.py): give the folder of a training, or a config file')
    if len(configs) > 1:
        names = ', '.join(path.name for path in configs)
        raise ValueError(f'{folder} has several configs ({names}): name one of these files, and weights')
    if not with_weights:
        return configs[0], None
    # The newest: a training that was started anew in the same folder leaves the old best one there.
    best = sorted(folder.glob('best_*.pth'), key=lambda path: path.stat().st_mtime)
    last = sorted(folder.glob('*.pth'), key=lambda path: path.stat().st_mtime)
    if not last:
        raise FileNotFoundError(f'{folder} has no checkpoint (*.pth) yet')
    return configs[0], str((best or last)[-1])


def find_entry(name: str) -> dict[str, Any]:
    """The entry of a name in the model index; upper case, ``-`` and ``_`` make no difference.

    Args:
        name: A name or an alias.

    Raises:
        FileNotFoundError: If there is none; the message names what comes near.
    """
    known: dict[str, dict[str, Any]] = {}
    for model in indexed_models():
        aliases = model.get('Alias') or []
        for alias in [model['Name'], *([aliases] if isinstance(aliases, str) else aliases)]:
            known[_plain(alias)] = model
    entry = known.get(_plain(name))
    if entry is None:
        close = difflib.get_close_matches(_plain(name), known, n=3)
        names = ' or '.join(known[one]['Name'] for one in close)
        hint = f'did you mean {names}?' if close else '"mmetris models" lists the names'
        raise FileNotFoundError(f'no model, file or folder is called {name!r}; {hint}')
    return entry


def config_path(name: str | os.PathLike) -> Path:
    """The config file that is meant.

    Args:
        name: A file; the path of one that comes with mmetris, as it is written in the documents
            (``configs/etris/...``), wherever one stands; its name alone (``etris_tiny_shapes``); or a name of the model
            index.

    Raises:
        FileNotFoundError: If there is none; the message names what comes near.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    root = package_root()
    if not path.is_absolute() and (root / path).is_file():
        return root / path
    if path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(f'config file not found: {name}')
    files = _config_files(root)
    if path.name in files:
        return files[path.name]
    try:
        return root / find_entry(path.name)['Config']
    except FileNotFoundError:
        close = difflib.get_close_matches(path.name, files, n=3)
        hint = f'did you mean {" or ".join(close)}?' if close else 'give a file, or the name of one of mmetris'
        raise FileNotFoundError(f'config file not found: {name}; {hint}') from None


def _config_files(root: Path) -> dict[str, Path]:
    """All configs that come with mmetris by their names, those without an entry in the model index too."""
    return {file.stem: file for file in sorted((root / 'configs').glob('[!_]*/*.py'))}


def _plain(name: str) -> str:
    return name.lower().replace('-', '_')


def _of_index(name: str, with_weights: bool) -> tuple[Path, str | None]:
    """Config and weights of a name in the model index."""
    if name.endswith('.py') or os.sep in name:
        hint = f'; a model of the hub is {HUB}{name}' if re.fullmatch(r'[\w.-]+/[\w.-]+(?<!\.py)', name) else ''
        raise FileNotFoundError(f'config file or folder not found: {name}{hint}')
    root = package_root()
    try:
        entry = find_entry(name)
    except FileNotFoundError:
        file = _config_files(root).get(name)
        if file is None or with_weights:
            raise
        return file, None
    weights = entry.get('Weights')
    if weights is not None and scheme_of(weights) is None:
        weights = str(root / weights)
    published = published_of(entry, root)
    if weights is None and published is not None and with_weights:
        converted = converted_files(published)
        if converted is None:
            raise FileNotFoundError(
                f'no weights for {published.name} on this machine: "mmetris download {published.name}" fetches the '
                f'published ones from {hub_address(published.repo)} and converts them, once; or give '
                'weights=CHECKPOINT (--weights on the command line)'
            )
        return converted[0], str(converted[1])
    if weights is None and with_weights and not entry['Metadata'].get('Training Free'):
        raise FileNotFoundError(
            f'no weights for {entry["Name"]}: nobody published any that could be fetched. Give weights=CHECKPOINT '
            '(--weights on the command line), or the folder of a training'
        )
    return root / entry['Config'], weights


def complete_clip_paths(cfg: Any) -> None:
    """Let relative ``clip_checkpoint`` paths that are not found here mean the files that ship with mmetris.

    Args:
        cfg: The ``model`` part of a config, or any part of it; changed in place.
    """
    if isinstance(cfg, dict):
        source = cfg.get('clip_checkpoint')
        if isinstance(source, str) and not Path(source).expanduser().exists() and not Path(source).is_absolute():
            shipped = package_root() / source
            if shipped.is_file():
                cfg['clip_checkpoint'] = str(shipped)
        for value in cfg.values():
            complete_clip_paths(value)
    elif isinstance(cfg, (list, tuple)):
        for value in cfg:
            complete_clip_paths(value)
