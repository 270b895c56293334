"""The start of a training or a test: what is missing ends it with one line, of one process, no log before it.

MMEngine's log of the start (environment, config, hooks) is kept off the screen until data and weights have been read;
its file has it at once.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import logging
import os
import pickle
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from types import FrameType
from typing import Any, Literal, NoReturn, TextIO, cast

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.registry import OPTIMIZERS, Registry
from mmengine.runner import BaseLoop

from mmetris.utils.checkpoint_io import CheckpointNotSavedError, MisfitError
from mmetris.utils.command_line import build_runner, is_main_process
from mmetris.utils.encoder_files import encoder_path, how_to_get
from mmetris.utils.quiet import without_onedl_line

# What reading data, weights and a config raises where these are at fault.
START_ERRORS = (OSError, ValueError, KeyError, ImportError, pickle.UnpicklingError)
# Have their own endings, or are no fault of the start.
_NOT_HERE = (CheckpointNotSavedError, MisfitError, BlockingIOError, BrokenPipeError)
TRACEBACK = 'MMETRIS_TRACEBACK'  # As the `mmetris` command has it: shows where an error comes from.
PATIENCE = 15.0  # Seconds that the first process may say the line before another one does.


class ToolParser(argparse.ArgumentParser):
    """The command line of a tool that several processes may run: the first one of them says what is wrong."""

    def error(self, message: str) -> NoReturn:
        """End with usage and one line, status 2."""
        _leave_it_to_the_main_process()
        super().error(message)


class HeldScreen:
    """A stream that keeps what is written, until it is released; then it writes on to the one below, for good.

    Args:
        stream: The one below.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.kept: list[str] | None = []

    def write(self, text: str) -> int:
        """Keep or pass on."""
        if self.kept is None:
            return self.stream.write(text)
        self.kept.append(text)
        return len(text)

    def flush(self) -> None:
        """Of what was passed on."""
        if self.kept is None:
            self.stream.flush()

    def release(self) -> None:
        """Write what was kept, and pass on from now."""
        kept, self.kept = self.kept, None
        if kept:
            self.stream.write(''.join(kept))
            self.stream.flush()

    def drop(self) -> None:
        """Forget what was kept."""
        if self.kept is not None:
            self.kept = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _ReleaseHook(Hook):
    """Shows the log when training or testing begins."""

    def __init__(self, screen: HeldScreen) -> None:
        self.screen = screen

    def before_train(self, runner: Any) -> None:
        self.screen.release()

    def before_test(self, runner: Any) -> None:
        self.screen.release()


def start(parser: argparse.ArgumentParser, cfg: Config, what: Literal['train', 'test']) -> Any:
    """Build the runner of a config, and train or test.

    Args:
        parser: Where errors are reported.
        cfg: The whole config.
        what: The runner's method.

    Returns:
        What it returns.

    Raises:
        SystemExit: With status 2 and one line if data or weights are missing or damaged, or the config asks for what
            is not there. Not what happens once training has begun, but that a file is missing.
    """
    check_encoders(parser, cfg) if what == 'train' else None
    screen, runner = HeldScreen(sys.stdout), None
    try:
        with redirect_stdout(cast(TextIO, screen)), without_onedl_line():
            runner = build_runner(cfg)
            if what == 'train':
                _check_optimizer(cfg)
        if is_main_process():
            print(f'Reading data and weights; the log is in {runner.log_dir}', file=sys.stderr, flush=True)
        runner.register_hook(_ReleaseHook(screen), priority='VERY_HIGH')
        return getattr(runner, what)()
    except Exception as error:
        if not _is_one_line(error):
            raise
        if runner is not None:
            log_to_files(runner.logger, error)
        screen.drop()
        fail(parser, told(error))
    except SystemExit:
        screen.drop()
        raise
    finally:
        screen.release()


@contextmanager
def in_one_line(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Within it what a config asks for in vain, and missing or damaged files, end the program with one line, status 2.

    Args:
        parser: Where errors are reported.
    """
    try:
        yield
    except Exception as error:
        if not _is_one_line(error):
            raise
        fail(parser, told(error))


def _is_one_line(error: BaseException) -> bool:
    """Whether users are helped by an error's text alone."""
    if os.environ.get(TRACEBACK) or isinstance(error, _NOT_HERE):
        return False
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return False
    if isinstance(error, FileNotFoundError):
        return True
    is_of_config = isinstance(error, START_ERRORS) or bool(_building(error)) or _missing_setting(error) is not None
    return is_of_config and not _has_begun(error)


def _frames(error: BaseException) -> list[FrameType]:
    """The frames that an error came through, the innermost last."""
    frames, step = [], error.__traceback__
    while step is not None:
        frames.append(step.tb_frame)
        step = step.tb_next
    return frames


def _has_begun(error: BaseException) -> bool:
    """Whether an error comes out of a running loop."""
    return any(
        frame.f_code.co_name == 'run' and isinstance(frame.f_locals.get('self'), BaseLoop) for frame in _frames(error)
    )


def _building(error: BaseException) -> list[FrameType]:
    """MMEngine's frames that were building a part of a config when an error was raised, the innermost last.

    A misspelt argument is a TypeError there, a value of the wrong kind whatever the part raises.
    """
    building = []
    for frame in _frames(error):
        module, name = frame.f_globals.get('__name__', ''), frame.f_code.co_name
        # A runner's constructor reads settings that are no parts, such as randomness.
        is_runner = name == '__init__' and module.startswith('mmengine.runner.')
        if is_runner or name.startswith('build') and module.startswith('mmengine.'):
            building.append(frame)
    return building


def _part_built(error: BaseException) -> str:
    """The class or function of a config that was being built; '' if none was."""
    for frame in reversed(_building(error)):
        part = frame.f_locals.get('obj_cls')
        if part is not None:
            return getattr(part, '__name__', '')
    return ''


def _missing_setting(error: BaseException) -> str | None:
    """The setting that a config was asked for and has not, or None."""
    if isinstance(error, AttributeError):
        found = re.fullmatch(r"'ConfigDict' object has no attribute '(\w+)'", str(error))
        return None if found is None else found[1]
    frames = _frames(error)
    is_missing = isinstance(error, KeyError) and frames and frames[-1].f_code.co_name == '__missing__'
    return str(error.args[0]) if is_missing and error.args else None


def _unknown_name(error: BaseException) -> str | None:
    """What to say of a ``type`` that no registry knows, or None if the error is another."""
    frames = _building(error)
    found = frames[-1].f_locals if frames else {}
    name, registry = found.get('obj_type'), found.get('registry')
    if not (isinstance(error, KeyError) and isinstance(name, str) and isinstance(registry, Registry)):
        return None
    return None if found.get('obj_cls') is not None else _in_no_registry(name, registry)


def _in_no_registry(name: str, registry: Registry) -> str:
    """The line about a name, with the most similar one that is there."""
    scope, level, known = registry.scope, registry, set()
    while level is not None:
        known |= set(level.module_dict)
        level = level.parent
    close = difflib.get_close_matches(name.rpartition('.')[2], sorted(known), n=1)
    hint = f'did you mean {close[0]}?' if close else 'custom_imports of the config imports the module that has it'
    return f'{name} is not in the {scope}::{registry.name} registry; {hint}'


def _check_optimizer(cfg: Config) -> None:
    """Raise KeyError if no registry knows the optimizer's ``type``; MMEngine would ask for the signature of None."""
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer')
    name = optimizer.get('type') if isinstance(optimizer, dict) else None
    with OPTIMIZERS.switch_scope_and_registry(None) as registry:
        if isinstance(name, str) and registry.get(name) is None:
            raise KeyError(_in_no_registry(name, registry))


def log_to_files(logger: MMLogger, error: BaseException) -> None:
    """Write an error with its traceback into the log's files, and not to the screen.

    Args:
        logger: The runner's.
        error: As it was caught.
    """
    record = logger.makeRecord(logger.name, logging.ERROR, __file__, 0, 'the start failed', (), None)
    record.exc_info = (type(error), error, error.__traceback__)
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def told(error: BaseException) -> str:
    """An error in one line: its text, and where missing data come from.

    Args:
        error: As it was caught.
    """
    from mmetris.datasets.sources import how_to_get_missing  # It imports the data sets, which other errors need not.

    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    if lines[0].startswith('Caught '):  # By PyTorch in a loader's process: its traceback, then the error.
        lines = [re.sub(r'^(\w+\.)*\w*Error: ', '', lines[-1])]
    line = ' '.join(lines)
    if isinstance(error, FileNotFoundError):
        source = how_to_get_missing(error)
        return line if source is None or source in line else f'{line}; {source}'
    setting, part = _missing_setting(error), _part_built(error)
    if setting is not None:
        line = f'the config has no setting "{setting}"'
    elif (unknown := _unknown_name(error)) is not None:
        line = unknown
    elif part and part not in line and not isinstance(error, START_ERRORS):
        line = f'{part}: {line}'
    return f'{line} ({TRACEBACK}=1 shows where)'


def check_encoders(parser: argparse.ArgumentParser, cfg: Config) -> None:
    """End the program with one line if a file of pretrained encoders is missing, before data are read.

    Args:
        parser: Where errors are reported.
        cfg: The config.
    """
    from mmetris.apis.fetching import encoder_sources

    for source, _ in encoder_sources(cfg):
        how = how_to_get(source)
        if how is not None and not encoder_path(source).is_file():
            fail(parser, f'pretrained weights are missing: {source}; {how}')


def fail(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """End the program with one line, without usage, status 2; of several processes the first one says it.

    Args:
        parser: It has the program's name.
        message: The line.
    """
    _leave_it_to_the_main_process()
    parser.exit(2, f'{parser.prog}: error: {message}\n')


def _leave_it_to_the_main_process() -> None:
    """In another process wait for the launcher, which ends this one as soon as the first one has ended.

    What only this process meets, on a machine of its own say, is said after that time.
    """
    if not is_main_process():
        time.sleep(PATIENCE)


__all__ = ['HeldScreen', 'ToolParser', 'check_encoders', 'fail', 'in_one_line', 'start', 'told', 'log_to_files']
