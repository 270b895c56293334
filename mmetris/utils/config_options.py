"""``--cfg-options``: text to values, and values into a config, where what would be ignored is refused.

A config is a program: by the time that options are merged, its variables (``input_size``, ``max_epochs`` ...) have been
read, and what was computed from them stays as it is. Which settings these are is found by reading the config once more,
with the other value in the variable's place.
"""

from __future__ import annotations

import argparse
import ast
import copy
import difflib
import inspect
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.config import config as reader
from mmengine.runner import Runner
from mmengine.runner._flexible_runner import FlexibleRunner
from mmengine.utils import import_modules_from_strings

from .projects import with_projects

CFG_OPTIONS_HELP = (
    'settings to override, as key=value pairs with dotted keys, e.g. optim_wrapper.optimizer.lr=2e-4. '
    'A list is written key="[a,b]" or key=a,b, a tuple in a list key="[(a,b),(c,d)]", a dict '
    'key="dict(type=\'EMAHook\',momentum=1e-4)". A variable that a config computes other settings from '
    '(input_size, ...) is refused, with the settings that it stands for'
)
# Read by tools/test.py --tta and when a config is read, beside what the runner reads.
OTHER_SETTINGS = frozenset({'tta_model', 'tta_pipeline', 'custom_imports'})
# Read by the runner from its config as it goes, and no arguments of it.
READ_FROM_CFG = frozenset(
    {'sync_bn', 'find_unused_parameters', 'activation_checkpointing', 'efficient_conv_bn_eval', 'model_wrapper_cfg'}
)
MAX_DEPTH = 40  # Brackets within brackets.
MAX_SETTINGS = 8  # That a message names.
_CLOSING = {'(': ')', '[': ']', '{': '}'}
_WORDS = {'true': True, 'false': False, 'None': None}


class CfgOptions(argparse.Action):
    """Action of ``--cfg-options``: KEY=VALUE words become one dict, see :func:`parse_value`; given again, they add."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Put the dict into the namespace."""
        del parser, option_string
        options = dict(getattr(namespace, self.dest, None) or {})
        for pair in values or ():
            key, equals, text = str(pair).partition('=')
            if not key or not equals:
                raise argparse.ArgumentError(self, f'{pair!r} is not KEY=VALUE')
            try:
                options[key] = parse_value(text)
            except ValueError as error:
                raise argparse.ArgumentError(self, f'{key}: {error}') from None
        setattr(namespace, self.dest, options)


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``.

    Args:
        parser: The command line.
    """
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE', help=CFG_OPTIONS_HELP)


def parse_value(text: str) -> Any:
    """The value that a word of the command line means: a number, true or false, None, text, a list, a tuple or a dict.

    Args:
        text: As :data:`CFG_OPTIONS_HELP` tells it. Within brackets, quotation marks make text of what they hold; around
            the whole they keep its commas.

    Raises:
        ValueError: If a bracket or a quotation mark in a list is not closed.

    Example:
        >>> parse_value('[(1,2),dict(type=EMAHook,momentum=1e-4)]')
        [(1, 2), {'type': 'EMAHook', 'momentum': 0.0001}]
    """
    text = text.strip()
    if len(text) > 1 and text[0] in '\'"' and text.find(text[0], 1) == len(text) - 1:
        text = text[1:-1]
        if text[:1] not in _CLOSING and not text.startswith('dict('):
            return _scalar(text)
    # A name with a comma in brackets of its own, such as f(a,b), is one part.
    if text[:1] not in _CLOSING and not text.startswith('dict(') and ',' in text:
        parts = _split(text, ',')
        return [_parse(part, 1) for part in parts] if len(parts) > 1 or text.endswith(',') else text
    if text[:1] in _CLOSING and _end_of_bracket(text) < len(text) - 1 and len(parts := _split(text, ',')) > 1:
        return [_parse(part, 1) for part in parts]
    return _parse(text, 0)


def _parse(text: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError(f'more than {MAX_DEPTH} brackets within each other')
    text = text.strip()
    if depth and len(text) > 1 and text[0] in '\'"' and text[-1] == text[0]:
        return text[1:-1]
    name, _, _ = text.partition('(')
    start = 4 if name == 'dict' and '(' in text else 0
    if text[start : start + 1] not in _CLOSING or _end_of_bracket(text[start:]) != len(text) - start - 1:
        return _scalar(text)
    parts = _split(text[start + 1 : -1], ',')
    if start or text[0] == '{':
        return dict(_pair(part, '=' if start else ':', depth) for part in parts)
    values = [_parse(part, depth + 1) for part in parts]
    return values if text[0] == '[' else tuple(values)


def _pair(text: str, separator: str, depth: int) -> tuple[str, Any]:
    """Key and value of a dict's part."""
    key, *rest = _split(text, separator)
    if not rest:
        raise ValueError(f'{text!r} of a dict is not KEY{separator}VALUE')
    name = key.strip().strip('\'"')
    return name, _parse(separator.join(rest), depth + 1)


def _scalar(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return _WORDS.get(text if text == 'None' else text.lower(), text)


def _walk(text: str) -> Iterator[tuple[int, str, int]]:
    """Letters outside of quotation marks: where they are, and how many brackets are open behind them.

    Raises:
        ValueError: If a bracket or a quotation mark is not closed, or one closes that is not open.
    """
    opened: list[str] = []
    quote, before = '', ','
    for index, letter in enumerate(text):
        if quote:
            quote = '' if letter == quote else quote
            continue
        if letter in '\'"' and before in ',=:([{':  # Elsewhere it is an apostrophe.
            quote = letter
        elif letter in _CLOSING:
            opened.append(_CLOSING[letter])
        elif letter in _CLOSING.values():
            if not opened or opened.pop() != letter:
                raise ValueError(f'{letter} in {text!r} closes no bracket')
        before = before if letter == ' ' else letter
        yield index, letter, len(opened)
    if opened or quote:
        raise ValueError(f'{quote or opened[-1]} is missing in {text!r}')


def _split(text: str, separator: str) -> list[str]:
    """Parts between separators that stand outside of brackets and quotation marks; none behind the last."""
    cuts = [index for index, letter, depth in _walk(text) if letter == separator and not depth]
    parts = [text[start:end] for start, end in zip([0, *(cut + 1 for cut in cuts)], [*cuts, len(text)])]
    return parts if parts[-1].strip() else parts[:-1]


def _end_of_bracket(text: str) -> int:
    """Where the bracket closes that a text begins with."""
    return next(index for index, _, depth in _walk(text) if not depth)


def option_text(value: Any) -> str:
    """A value as :func:`parse_value` reads it, the other way round.

    Args:
        value: A number, text, or a list, tuple or dict of such.

    Example:
        >>> option_text([(1, 2), 'a'])
        "[(1,2),'a']"
    """
    if isinstance(value, str):
        return f'"{value}"' if ',' in value else value
    return _text(value)


def _text(value: Any) -> str:
    """A value inside of brackets, without white space of ours."""
    if isinstance(value, Mapping):
        return '{' + ','.join(f'{key!r}:{_text(inner)}' for key, inner in value.items()) + '}'
    if isinstance(value, (list, tuple)):
        inside = ','.join(map(_text, value))
        return f'[{inside}]' if isinstance(value, list) else f'({inside})'
    return repr(value)


def read_config(path: str | os.PathLike) -> Config:
    """Read a config file.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it cannot be read, with what it raised itself as the cause.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'config file not found: {path}')
    try:
        return with_projects(lambda: Config.fromfile(path), path)
    except Exception as error:  # A config is a program and can fail in any way.
        what = f'{type(error).__name__}: {error}' if str(error) else type(error).__name__
        raise ValueError(f'{path} cannot be read as a config: {what}') from error


def runner_settings() -> set[str]:
    """Names of the top settings that MMEngine's runner reads, whether or not a config mentions them."""
    names = {name for runner in (Runner, FlexibleRunner) for name in inspect.signature(runner.__init__).parameters}
    return names - {'self', 'cfg'} | {'runner_type'} | READ_FROM_CFG


def unknown_key(cfg: Config, dotted_key: str) -> str | None:
    """The shortest part of a dotted key that the config does not have, or ``None`` if only its last word may be new.

    >>> unknown_key(Config(dict(model=dict(neck=dict(type='Bridger')))), 'model.nek.dropout')
    'model.nek'
    """
    parts = dotted_key.split('.')
    if parts[0] not in cfg:
        return None if parts[0] in runner_settings() else parts[0]
    section = cfg
    for index, part in enumerate(parts[:-1]):
        if isinstance(section, (list, tuple)):
            if not part.isdigit() or int(part) >= len(section):
                return None  # the merge itself reports a bad index, with the length of the list
            section = section[int(part)]
        elif isinstance(section, dict) or section is cfg:
            if part not in section:
                return '.'.join(parts[: index + 1])
            section = section[part]
        else:
            return None
    return None


def merge_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Merge options with dotted keys into a config.

    A new key in a known section is allowed, since a config need not spell out every argument; a section that springs
    into being is warned about. ``custom_imports`` are imported.

    Args:
        cfg: The config, changed in place.
        options: Values by their keys; numbers in a key count the items of a list.

    Raises:
        ValueError: If a key's first word is unknown, if it is a variable that other settings have been computed from,
            or if it leads through something that has no parts.
    """
    where = cfg.filename or 'the config'
    for key in options:
        problem = unknown_key(cfg, key)
        if problem is not None and '.' not in problem:
            known = sorted(set(cfg.keys()) | runner_settings())
            close = difflib.get_close_matches(problem, known, n=1)
            hint = f'did you mean "{close[0]}"?' if close else f'known ones: {", ".join(known)}'
            raise ValueError(f'{where} has no setting "{problem}" (from "{key}"); {hint}')
        if problem is not None:
            warnings.warn(f'--cfg-options: {where} has no section "{problem}"; "{key}" adds it', stacklevel=3)
    _refuse_variables(cfg, options)
    for key, value in options.items():
        try:
            cfg.merge_from_dict(_with_whole_lists(cfg, key, copy.deepcopy(value)))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f'{key}: {error.args[0] if error.args else error}') from None
    if any(key.partition('.')[0] == 'custom_imports' for key in options):
        import_modules_from_strings(**cfg.custom_imports)


def _with_whole_lists(cfg: Config, key: str, value: Any) -> dict[str, Any]:
    """The same option, but for an item of a list that is no dict: MMEngine merges dicts into items, so that any other
    value comes as a whole list.

    Raises:
        KeyError: If there is no such item.
        TypeError: If the key leads through something that has no parts.
    """
    *parents, last = key.split('.')
    section: Any = cfg
    for number, part in enumerate(parents):
        if isinstance(section, (list, tuple)):
            section = section[_item(section, part)]
        elif isinstance(section, Mapping) or section is cfg:
            if part not in section:
                return {key: value}
            section = section[part]
        if section is not None and not isinstance(section, (list, tuple, Mapping)):
            raise TypeError(f'{".".join(parents[: number + 1])} is {section!r}, which has no parts')
    if not isinstance(section, (list, tuple)):
        return {key: value}
    items = list(section)
    old = items[_item(section, last)]
    if isinstance(value, Mapping) and isinstance(old, Mapping) and isinstance(section, list):
        return {key: value}
    items[int(last)] = value
    return _with_whole_lists(cfg, '.'.join(parents), type(section)(items))


def _item(section: Sequence[Any], part: str) -> int:
    if not part.isdigit() or int(part) >= len(section):
        raise KeyError(f'there is no item {part} in a list of {len(section)}')
    return int(part)


def _refuse_variables(cfg: Config, options: Mapping[str, Any]) -> None:
    """Raise ValueError if an option names a variable that settings have been computed from."""
    settings = runner_settings() | OTHER_SETTINGS
    variables = {key: value for key, value in options.items() if key.partition('.')[0] not in settings}
    if not variables:
        return
    names = list(dict.fromkeys(key.partition('.')[0] for key in variables))
    changed: list[tuple[str, Any]] = []
    error = ''
    if cfg.filename is not None and Path(cfg.filename).is_file():
        try:
            before, after = Config.fromfile(cfg.filename), _read_with(cfg.filename, variables)
            changed = [one for name in settings for one in _differences(name, before.get(name), after.get(name))]
        except Exception as failure:  # A config is a program and can fail in any way.
            error = f' (with the new value it cannot: {failure})'
    keys = [f'{key}={_shown(value)}' for key, value in sorted(changed)]
    # Where nothing is computed, as in the config that a training writes into its folder, equal values tell.
    keys = keys or [place for name in names for place in _places(cfg, name, settings)]
    if not keys and not error:
        return  # Nothing of the config depends on it: a user's own part may read it.
    computed = f'{cfg.filename or "the config"} has already computed other settings from '
    computed += ('this variable' if len(names) == 1 else 'these variables') + error
    shown = f'; give these instead: {" ".join(keys[:MAX_SETTINGS])}' if keys else ''
    more = f' and {len(keys) - MAX_SETTINGS} more' if len(keys) > MAX_SETTINGS else ''
    raise ValueError(f'{" and ".join(names)}: {computed}{shown}{more}')


def _differences(key: str, before: Any, after: Any) -> Iterator[tuple[str, Any]]:
    """Keys below which two settings differ, with the second's values."""
    if isinstance(before, Mapping) and isinstance(after, Mapping) and before.keys() <= after.keys():
        for name in after:
            if name not in before:
                yield f'{key}.{name}', after[name]
            else:
                yield from _differences(f'{key}.{name}', before[name], after[name])
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (old, new) in enumerate(zip(before, after)):
            yield from _differences(f'{key}.{number}', old, new)
    elif before != after:
        yield key, after


def _places(cfg: Config, variable: str, settings: set[str]) -> Iterator[str]:
    """Keys of settings that have a variable's value: text and what has parts wherever it stands, anything else under
    the same name."""
    value = cfg[variable]

    def walk(key: str, part: Any) -> Iterator[str]:
        is_told = isinstance(value, (str, list, tuple, Mapping)) or key.rpartition('.')[2] == variable
        if is_told and type(part) is type(value) and part == value:
            yield key
        elif isinstance(part, Mapping):
            for name, inner in part.items():
                yield from walk(f'{key}.{name}', inner)
        elif isinstance(part, (list, tuple)):
            for number, inner in enumerate(part):
                yield from walk(f'{key}.{number}', inner)

    for name in cfg.keys():
        if value and name in settings:
            yield from walk(name, cfg[name])


def _shown(value: Any) -> str:
    """A value in a form that a shell passes on, unless it is long."""
    text = option_text(value)
    if len(text) > 80:
        return '...'
    return f'"{text}"' if any(letter in text for letter in "()[]{}' ") and '"' not in text else text


def _read_with(filename: str, options: Mapping[str, Any]) -> Config:
    """A config as it would be if its files gave other values to variables."""
    statements: dict[str, list[ast.stmt]] = {}
    for key, value in options.items():
        name, *parts = key.split('.')
        place = name + ''.join(f'[{part if part.isdigit() else repr(part)}]' for part in parts)
        statements.setdefault(name, []).extend(ast.parse(f'{place} = {value!r}').body)
    with _statements_added(statements):
        return Config.fromfile(filename)


@contextmanager
def _statements_added(statements: Mapping[str, list[ast.stmt]]) -> Iterator[None]:
    """Within it MMEngine's reader of configs, of text and pure Python, runs statements behind each one that gives their
    variable a value."""

    def adding(transformer: type[ast.NodeTransformer]) -> Callable[..., ast.NodeTransformer]:
        class Adding(transformer):  # type: ignore[valid-type, misc]
            def visit_Module(self, node: ast.Module) -> ast.Module:
                node = self.generic_visit(node)
                body = []
                for statement in node.body:
                    bound = {
                        part.id
                        for part in ast.walk(statement)
                        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
                    }
                    body += [statement]
                    body += [copy.deepcopy(one) for name in statements if name in bound for one in statements[name]]
                node.body = body
                return ast.fix_missing_locations(node)

        return Adding

    names = ('RemoveAssignFromAST', 'ImportTransformer')
    own = {name: getattr(reader, name) for name in names}
    for name, transformer in own.items():
        setattr(reader, name, adding(transformer))
    try:
        yield
    finally:
        for name, transformer in own.items():
            setattr(reader, name, transformer)
