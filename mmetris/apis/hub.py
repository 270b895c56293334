"""Tuned models on Hugging Face's hub: a slim checkpoint, its config as data, and a model card.

What is shared is ``model.safetensors`` (what was tuned, and fingerprints of the frozen encoders; or all of it),
``config.json`` (the model and its test pipeline as plain values) and ``README.md``. Nothing else of a config leaves the
machine: no data sets, hooks or folders; names of files become names of published ones, or none. Neither file runs
anything where it is loaded: the config is JSON, and the types that it names are this package's own.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import EvalResult, HfApi, ModelCardData
from mmengine.config import Config
from open_clip.pretrained import list_pretrained
from safetensors.torch import save_file
from torch import Tensor, nn

from mmetris.models.encoders.fingerprint import Fingerprint
from mmetris.models.encoders.frozen_encoder import FINGERPRINT_KEY
from mmetris.models.encoders.slim_checkpoint import (
    frozen_at_random,
    is_slim,
    read_pretrained,
    slim_state_dict,
    tuned_weights,
)
from mmetris.registry import MODELS, TRANSFORMS
from mmetris.utils.checkpoint_io import check_finite, read_checkpoint, write_atomically
from mmetris.utils.config_types import type_name
from mmetris.utils.downloads import HUB, MAIN, endpoint, fetch_hub_file, scheme_of, split_hub_address
from mmetris.utils.encoder_files import encoder_files, how_to_get
from mmetris.utils.text_files import read_text
from mmetris.version import __version__

from .asking import test_pipeline
from .model import init_model
from .model_zoo import complete_clip_paths, find_model, package_root

CONFIG, WEIGHTS, CARD = 'config.json', 'model.safetensors', 'README.md'
FORMAT = 1
# Of the card, above a row for each encoder.
FROZEN_TABLE = """\
The file belongs to these weights and is refused on others. The checksum is that of `mmetris.models.encoders`, over the
frozen tensors in single precision.

| part | weights | SHA-256 |
| --- | --- | --- |"""
MAX_CONFIG_BYTES = 1 << 20
_SOURCES = ('clip_checkpoint', 'checkpoint')  # Arguments that name files of weights.
# The checkpoint has the weights; the cache and the tokenizer's files are in folders of this machine.
_LEFT_OUT = ('init_cfg', 'prefix_cache', 'pretrained', 'tokenizer')


class SharedModel(NamedTuple):
    """A model of the hub, or of a folder of the same files.

    Args:
        config: What :func:`init_model` builds from.
        weights: Its slim (or full) checkpoint.
        told: All of ``config.json``.
    """

    config: Config
    weights: Path
    told: dict[str, Any]


def save_pretrained(
    model: nn.Module | str | os.PathLike | Config,
    folder: str | os.PathLike,
    weights: str | os.PathLike | None = None,
    scores: Mapping[str, Mapping[str, float]] | None = None,
    datasets: Sequence[str] = (),
    license: str | None = None,
    name: str | None = None,
    full: bool = False,
) -> Path:
    """Write what :func:`push_to_hub` sends into a folder, to be looked at or passed on in another way.

    Args:
        model: A model of :func:`init_model`; or config file, name in the model index, folder of a training, or config.
        folder: The folder, made where it is missing; files of the three names in it are replaced.
        weights: Checkpoint of ``model``, full or slim, unless that is a model. Defaults to None: the one that belongs
            to it.
        scores: Scores for the card, by data set and split: ``{'RefCOCO val': {'mIoU': 70.5}}``. Defaults to None:
            the card says that none were given.
        datasets: What it was trained on, as the hub calls it. Defaults to none.
        license: As the hub writes it, such as ``'apache-2.0'``. Defaults to None: not told.
        name: ``owner/name``, for title and example of the card. Defaults to None: the type of the model.
        full: Whether the weights of the frozen encoders go with it. That of a converted model must: its config names no
            files of theirs. Defaults to False: a slim checkpoint.

    Returns:
        The folder.

    Raises:
        ValueError: If the model cannot be shared: an encoder is frozen at weights that nobody else has and ``full`` is
            not set, a weight is NaN or infinite, a setting looks like a path, or a type is none of mmetris's.
        FileNotFoundError: If a file is missing.
    """
    built, state = _built(model, weights, full)
    check_finite(state, built.__class__.__name__)  # Nobody could load it.
    told = _told(built, state, full)
    folder = Path(folder)
    with write_atomically(folder / WEIGHTS, sync=True) as temporary:
        save_file(
            {key: value.detach().cpu().contiguous().clone() for key, value in state.items()},
            temporary,
            metadata=dict(format='pt'),  # One entry: the order of several is another one each time.
        )
    card = _card(told, scores or {}, datasets, license, name or built.__class__.__name__, folder / WEIGHTS)
    for file, text in ((CONFIG, json.dumps(told, indent=1, ensure_ascii=False) + '\n'), (CARD, card)):
        _check_public(text, file)
        with write_atomically(folder / file) as temporary:
            temporary.write_text(text, encoding='utf-8')
    return folder


def push_to_hub(
    model: nn.Module | str | os.PathLike | Config,
    repo_id: str,
    weights: str | os.PathLike | None = None,
    scores: Mapping[str, Mapping[str, float]] | None = None,
    datasets: Sequence[str] = (),
    license: str | None = None,
    full: bool = False,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    create_pr: bool = False,
    commit_message: str = 'Upload a model of mmetris',
) -> str:
    """Send a tuned model to Hugging Face's hub.

    Args:
        model: A model of :func:`init_model`; or config file, name in the model index, folder of a training, or config.
        repo_id: ``owner/name``; the repo is made where it is missing.
        weights: See :func:`save_pretrained`. Defaults to None.
        scores: Likewise. Defaults to None.
        datasets: Likewise. Defaults to none.
        license: Likewise. Defaults to None.
        full: Likewise. Defaults to False.
        private: Whether a repo that is made is private. Defaults to None: as its owner's settings say.
        revision: Branch to send to. Defaults to None: ``main``.
        token: Who sends. Defaults to None: who is logged in (``hf auth login``, ``HF_TOKEN``).
        create_pr: Whether to propose it as a pull request. Defaults to False.
        commit_message: Of the commit.

    Returns:
        Address of the commit.

    Raises:
        ValueError: See :func:`save_pretrained`.
        FileNotFoundError: If a file is missing.

    Example:
        >>> push_to_hub('work_dirs/etris_r101_refcoco', 'me/etris-r101', scores={'RefCOCO val': {'mIoU': 70.5}})
    """
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder, weights, scores, datasets, license, name=repo_id, full=full)
        api = HfApi(endpoint=endpoint(), token=token, library_name='mmetris', library_version=__version__)
        api.create_repo(repo_id, private=private, exist_ok=True)
        info = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message,
            allow_patterns=[CONFIG, WEIGHTS, CARD],
        )
    return str(info.commit_url)


def from_pretrained(
    source: str | os.PathLike,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
    device: str | torch.device | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A model that was shared by :func:`push_to_hub`, in evaluation mode.

    Args:
        source: ``owner/name`` of the hub, ``hf://owner/name@revision``, or a folder of :func:`save_pretrained`.
        revision: Branch, tag or commit. Defaults to None: ``main``.
        token: Who asks. Defaults to None: who is logged in, or nobody.
        cache_dir: Where files are kept. Defaults to None: ``HF_HOME/hub``.
        local_files_only: Whether not to ask the hub. Defaults to False.
        device: See :func:`init_model`. Defaults to None: a GPU if there is one.
        cfg_options: Settings to override, as in :func:`init_model`, such as the file of CLIP's weights where the shared
            model could not name a published one. Defaults to None.

    Returns:
        The model, with ``cfg`` and ``dataset_meta`` as attributes.

    Raises:
        FileNotFoundError: If something is not here and cannot be fetched.
        ValueError: If the config names types that are none of mmetris's, or the weights are no safetensors or do not
            fit.

    Example:
        >>> model = from_pretrained('me/etris-r101', revision='v1')
    """
    shared = find_shared(source, revision, token, cache_dir, local_files_only)
    model = init_model(shared.config, shared.weights, device, cfg_options)
    if isinstance(shared.told.get('dataset_meta'), dict):
        model.dataset_meta = dict(shared.told['dataset_meta'])  # type: ignore[assignment]  # nn.Module takes any.
    return model


def find_shared(
    source: str | os.PathLike,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
) -> SharedModel:
    """Config and weights of a shared model, fetched where they are not here; arguments as of :func:`from_pretrained`.

    Raises:
        FileNotFoundError: If something is not here and cannot be fetched.
        ValueError: If the config is no JSON, or names types that are none of mmetris's. What the weights are, whoever
            loads them sees: a file of that name is read as safetensors and as nothing else.
    """
    text = os.fspath(source)
    folder = Path(text).expanduser()
    if scheme_of(text) is None and folder.is_dir():
        config, weights = folder / CONFIG, folder / WEIGHTS
        if not config.is_file():
            raise FileNotFoundError(f'{folder} has no {CONFIG}: it is no model of push_to_hub or save_pretrained')
    else:
        repo_id, named, file = split_hub_address(text if scheme_of(text) == 'hf' else HUB + text)
        if file is not None:
            raise ValueError(f'{text} names a file; a repo is needed: owner/name')
        config, weights = (
            fetch_hub_file(
                repo_id,
                name,
                revision or named or MAIN,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
            ).path
            for name in (CONFIG, WEIGHTS)
        )
    told = read_config(config)
    if not weights.is_file():
        raise FileNotFoundError(f'{weights} is missing')
    cfg = Config(
        dict(
            default_scope='mmetris', model=told['model'], test_pipeline=told['test_pipeline'],
            context_length=told.get('context_length'),
        )
    )  # fmt: skip
    complete_clip_paths(cfg.model)
    return SharedModel(cfg, weights, told)


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """Read ``config.json`` of a shared model; nothing in it can run anything.

    Args:
        path: The file.

    Raises:
        ValueError: If it is no JSON of a model of mmetris, names types that are not this package's, or files other than
            published ones.
    """
    if Path(path).stat().st_size > MAX_CONFIG_BYTES:
        raise ValueError(f'{path} is larger than {MAX_CONFIG_BYTES >> 10} KB: it is no config of a model')
    try:
        told = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} cannot be read as JSON ({str(error)[:120]}); configs of the hub are data') from error
    if not isinstance(told, dict) or told.get('library_name') != 'mmetris' or told.get('format') != FORMAT:
        raise ValueError(f'{path} is no config of a model of mmetris (library_name, format {FORMAT})')
    if not isinstance(told.get('model'), dict) or not isinstance(told.get('test_pipeline'), list):
        raise ValueError(f'{path} has no "model" or no "test_pipeline"')
    for key in ('model', 'test_pipeline'):
        _check_node(told[key], key, path)
    return told


def _check_node(node: Any, where: str, path: str | os.PathLike) -> None:
    """Raise ValueError if a part of a shared config names a type of others, or a file."""
    if isinstance(node, dict):
        for key, value in node.items():
            here = f'{where}.{key}'
            if key == 'type':
                _check_type(value, here, path)
            elif key in _LEFT_OUT or key.startswith('_'):
                raise ValueError(f'{path}: {here} has no place in a shared model')
            elif key in _SOURCES:
                if value is not None and (not isinstance(value, str) or _public_source(value) != value):
                    raise ValueError(f'{path}: {here}={value!r} is neither a published file nor a tag of open_clip')
            else:
                _check_node(value, here, path)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            _check_node(value, f'{where}.{index}', path)
    elif isinstance(node, str) and _is_pathlike(node):
        raise ValueError(f'{path}: {where}={node!r} looks like a path')


def _check_type(name: Any, where: str, path: str | os.PathLike = 'the model') -> None:
    """Raise ValueError unless a type is one of this package's classes.

    MMEngine imports what a registry does not know by its dotted name (``os.system``, say), so it is not asked.
    """
    registry = MODELS if where.startswith('model') else TRANSFORMS
    registry.import_from_location()
    found = registry.module_dict.get(name.removeprefix('mmetris.')) if isinstance(name, str) else None
    if found is None or not found.__module__.startswith('mmetris.'):
        kind = 'models' if registry is MODELS else 'transforms'
        raise ValueError(f'{path}: {where}={name!r} is none of the {kind} of mmetris')


def _built(
    model: nn.Module | str | os.PathLike | Config, weights: str | os.PathLike | None, full: bool
) -> tuple[nn.Module, dict[str, Tensor]]:
    """A model and its state dict, slim unless all of it is asked for."""
    if isinstance(model, nn.Module):
        if weights is not None:
            raise ValueError('weights are for a config, a name or a folder; a model has its own')
        if not isinstance(getattr(model, 'cfg', None), Config):
            raise ValueError('the model has no cfg: build it by mmetris.apis.init_model')
        state = dict(model.state_dict())
        if not full:
            _slim(model, state)
        return model, _without_names(state)
    files = find_model(model, weights)
    if files.weights is None:
        raise ValueError(f'{model}: nothing was tuned that could be shared; whoever has the config has the model')
    content = read_checkpoint(files.weights)
    state = dict(content.get('state_dict', content))
    built = init_model(files.config, files.weights, device='cpu')
    if full:
        state = dict(built.state_dict())  # A slim checkpoint has been completed by now.
    else:
        read_pretrained(built)  # The frozen encoders' own weights, also where the checkpoint has some.
        if is_slim(state) or not frozen_at_random(built):
            tuned_weights(built, state)  # Raises unless it was tuned on these.
        if not is_slim(state):
            _slim(built, state)
    meta = content.get('meta')
    if isinstance(meta, Mapping) and isinstance(meta.get('dataset_meta'), Mapping):
        built.dataset_meta = dict(meta['dataset_meta'])  # type: ignore[assignment]  # nn.Module takes any.
    return built, _without_names(state)


def _slim(model: nn.Module, state: dict[str, Tensor]) -> None:
    """:func:`slim_state_dict`, whose error tells of ``full``."""
    try:
        slim_state_dict(model, state)
    except ValueError as error:
        raise ValueError(f'{error}; full=True (--full) shares the weights of the encoders, too') from None


def _without_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A slim state dict whose fingerprints name no file that only its owner knows."""
    public = dict(state)
    for key, value in state.items():
        if key.endswith(f'.{FINGERPRINT_KEY}'):
            mark = Fingerprint.from_tensor(value)
            public[key] = mark._replace(name=_public_name(mark.name)).to_tensor()
    return public


def _told(model: nn.Module, state: Mapping[str, Tensor], full: bool) -> dict[str, Any]:
    """Content of ``config.json``."""
    cfg: Any = model.cfg
    marks = {
        key.removesuffix(f'.{FINGERPRINT_KEY}'): Fingerprint.from_tensor(value)
        for key, value in state.items()
        if key.endswith(f'.{FINGERPRINT_KEY}')
    }
    meta = {key: _public(value, f'dataset_meta.{key}') for key, value in getattr(model, 'dataset_meta', {}).items()}
    return dict(
        library_name='mmetris',
        mmetris_version=__version__,
        format=FORMAT,
        model=_public(_without_sources(cfg.model.to_dict()) if full else cfg.model.to_dict(), 'model'),
        test_pipeline=_public([dict(step) for step in test_pipeline(cfg)], 'test_pipeline'),
        context_length=cfg.get('context_length'),
        dataset_meta={key: value for key, value in meta.items() if key in ('classes', 'palette')},
        encoders={name: mark._asdict() for name, mark in marks.items()},
        tunable_parameters=sum(value.numel() for value in model.parameters() if value.requires_grad),
    )


def _public(node: Any, where: str) -> Any:
    """A part of a config as plain values, without what belongs to this machine."""
    if isinstance(node, Mapping):
        found = {}
        for key, value in node.items():
            if key in _LEFT_OUT:
                continue
            if key == 'type':
                value = type_name(node)
                _check_type(value, f'{where}.{key}')
            elif key in _SOURCES and isinstance(value, (str, os.PathLike)):
                found[key] = _public_source(os.fspath(value))
                continue
            found[key] = _public(value, f'{where}.{key}')
        return found
    if isinstance(node, (list, tuple)):
        return [_public(value, f'{where}.{index}') for index, value in enumerate(node)]
    if isinstance(node, str) and _is_pathlike(node):
        raise ValueError(f'{where}={node!r} looks like a path of this machine: it is not shared; take it out')
    if node is None or isinstance(node, (bool, int, float, str)):
        return node
    raise ValueError(f'{where} is a {type(node).__name__}; numbers, text, lists and dicts can be shared')


def _without_sources(node: Any) -> Any:
    """A part of a config that names no files of weights: the checkpoint has them all."""
    if isinstance(node, Mapping):
        return {key: None if key in _SOURCES else _without_sources(value) for key, value in node.items()}
    return type(node)(map(_without_sources, node)) if isinstance(node, (list, tuple)) else node


def _public_source(source: str) -> str | None:
    """How others find weights: a published file, one that ships, or a tag of open_clip; None for any other."""
    if scheme_of(source) is None:
        name = Path(source).name
        if name in encoder_files() or (package_root() / 'pretrained' / name).is_file():
            return f'pretrained/{name}'
        if source in {tag for _, tag in list_pretrained()}:
            return source
    return None


def _public_name(name: str) -> str:
    """A fingerprint's name without a file name that only its owner knows."""
    encoder, _, source = name.rpartition(' from ')
    return name if not encoder or _public_source(source) is not None else encoder


def _is_pathlike(text: str) -> bool:
    return '/' in text or '\\' in text or text.startswith(('~', '$'))


_ABSOLUTE = re.compile(r'(?<![\w:/.])(?:/(?:home|root|Users|data|mnt|tmp|work|var|opt|scratch)\b|[A-Za-z]:\\)')


def _check_public(text: str, file: str) -> None:
    """Raise ValueError if a text that is about to be shared has a path of this machine in it."""
    folders = [folder for folder in {str(Path.home()), os.getcwd()} if len(folder) > 1]
    found = [folder for folder in folders if folder + os.sep in text] or _ABSOLUTE.findall(text)
    if found:
        raise ValueError(f'{file} would have a path of this machine in it ({found[0]}): nothing was sent')


def _card(
    told: Mapping[str, Any],
    scores: Mapping[str, Mapping[str, float]],
    datasets: Sequence[str],
    license: str | None,
    name: str,
    weights: Path,
) -> str:
    """Text of the model card."""
    repo = name if '/' in name else f'OWNER/{name}'
    name = repo.partition('/')[2]
    task = 'referring image segmentation'
    if told['model']['type'].removeprefix('mmetris.') != 'ReferringSegmentor':
        task = 'semantic segmentation by class names'
    results = [
        EvalResult(
            task_type='image-segmentation',
            task_name=task,
            dataset_type=re.sub('[^a-z0-9]+', '-', split.lower()),
            dataset_name=split,
            metric_type=metric,
            metric_value=float(value),
        )
        for split, metrics in scores.items()
        for metric, value in metrics.items()
    ]
    data = ModelCardData(
        library_name='mmetris',
        pipeline_tag='image-segmentation',
        tags=['mmetris', task.replace(' ', '-'), 'mmsegmentation'],
        license=license,
        datasets=list(datasets) or None,
        model_name=name,
        eval_results=results or None,
    )
    metrics = list(dict.fromkeys(metric for one in scores.values() for metric in one))
    table = 'No scores were given.'
    if metrics:
        rows = [
            f'| {name} | ' + ' | '.join(f'{one[metric]:g}' if metric in one else '-' for metric in metrics) + ' |'
            for name, one in scores.items()
        ]
        table = '\n'.join([f'| data | {" | ".join(metrics)} |', '| --- |' + ' --- |' * len(metrics), *rows])
    content = 'the whole model'
    frozen = 'The file has their weights, as the checkpoint that it was made from had them; no other file is needed.'
    if encoders := told['encoders']:
        content = 'what was tuned, without the frozen encoders'
        marks = [f'| `{part}` | {one["name"]} | `{one["sha256"]}` |' for part, one in encoders.items()]
        frozen = '\n'.join([FROZEN_TABLE, *marks])
    sources = sorted({source for source in _named_sources(told['model']) if how_to_get(source)})
    fetch = ''.join(f'\nmmetris download {encoder_files()[Path(source).name].name}' for source in sources)
    fetch = f'\n```bash{fetch}\n```\n' if fetch else ''
    return f"""---
{data.to_yaml().strip()}
---

# {name}

A model of mmetris {told['mmetris_version']} for {task}: {told['model']['type']}.

| | |
| --- | --- |
| task | {task} |
| trained on | {', '.join(datasets) or 'not told'} |
| tunable parameters | {told['tunable_parameters']:,} |
| file | `{WEIGHTS}`, {weights.stat().st_size:,} bytes: {content} |

## Scores

{table}

As its owner gave them; nobody else has measured them.

## Frozen encoders

{frozen}
{fetch}
## Use

```python
from mmetris.apis import RefSegInferencer, from_pretrained

model = from_pretrained('{repo}')
result = RefSegInferencer('hf://{repo}')('photo.jpg', 'the dog on the left')
```
"""


def _named_sources(node: Any) -> list[str]:
    if isinstance(node, Mapping):
        own = [node[key] for key in _SOURCES if isinstance(node.get(key), str)]
        return own + [source for value in node.values() for source in _named_sources(value)]
    return [source for value in node for source in _named_sources(value)] if isinstance(node, list) else []
