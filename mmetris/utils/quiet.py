"""What the packages below say at every start and nobody can act on is kept off the screen; faults never are.

Each entry names one message. A logged one still reaches the log file, and an error passes whatever it says.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, TextIO, cast

# How a warning begins, and its class.
WARNINGS: tuple[tuple[str, type[Warning]], ...] = (
    # Of MMEngine, in each process: the choice is the one that tools/launch.sh makes for OpenMP.
    (r'Setting (OMP|MKL)_NUM_THREADS environment variable for each process to be 1 in default', UserWarning),
    # Of PyTorch from 2.14 on, to MMEngine, which passes this argument to each model that it wraps.
    (r'`broadcast_buffers` is deprecated\. Use `forward_sync_buffers` instead', FutureWarning),
    # Of MMSeg, to its own configs: its hook draws where a test is told to, and its data sets give the argument.
    (r'The draw is False, it means that the hook for visualization will not take effect', UserWarning),
    (r'`reduce_zero_label` will be deprecated, if you would like to ignore the zero label', UserWarning),
    # Of setuptools, to MMEngine 0.10.7, which asks it for the versions of packages.
    (r'pkg_resources is deprecated as an API', UserWarning),
    (r'pkg_resources is deprecated as an API', DeprecationWarning),
)
# How a line of MMEngine's logger begins.
LOG_LINES: tuple[str, ...] = (
    r'paramwise_options -- ',  # one for each trained parameter
    r'\S+ is skipped since its requires_grad=False',  # one for each frozen parameter
    r'\n\S+ - torch\.Size\(\[[\d, ]*\]\): \n',  # one for each parameter: where its first value comes from
    r'"FileClient" will be deprecated in future',  # to MMEngine's own CheckpointHook
    r'"HardDiskBackend" is the alias of "LocalBackend"',
    r'The prefix is not set in metric class',  # the names of scores have none on purpose
)
# A line that MMSeg prints when its data sets are imported, and the packages whose absence alone it tells of.
ONEDL_LINE = 'Could not import OneDL'
ONEDL_PACKAGES = ('mmpretrain', 'onedl')


class ScreenFilter(logging.Filter):
    """Stops the lines of :data:`LOG_LINES` that are no errors; meant for handlers that write to a screen."""

    def __init__(self) -> None:
        super().__init__()
        self.pattern = re.compile('|'.join(LOG_LINES))

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is shown."""
        return record.levelno >= logging.ERROR or self.pattern.match(record.getMessage()) is None


def hide_warnings() -> None:
    """Ignore the warnings of :data:`WARNINGS`, for the rest of this process."""
    for beginning, category in WARNINGS:
        warnings.filterwarnings('ignore', message=beginning, category=category)


def quiet_screen(logger: logging.Logger) -> None:
    """Keep the lines of :data:`LOG_LINES` off the screen as long as the logger lives; its files get them.

    Args:
        logger: A logger that has its handlers. Handlers that have a :class:`ScreenFilter` are left alone.
    """
    for handler in _screens(logger):
        if not any(isinstance(one, ScreenFilter) for one in handler.filters):
            handler.addFilter(ScreenFilter())


@contextlib.contextmanager
def quieted(logger: logging.Logger) -> Iterator[None]:
    """:func:`quiet_screen` for the length of a ``with`` block.

    Args:
        logger: A logger that has its handlers.
    """
    added = [(handler, ScreenFilter()) for handler in _screens(logger)]
    for handler, one in added:
        handler.addFilter(one)
    try:
        yield
    finally:
        for handler, one in added:
            handler.removeFilter(one)


@contextlib.contextmanager
def without_onedl_line() -> Iterator[None]:
    """Drop :data:`ONEDL_LINE` from what is printed in a ``with`` block, where the optional package is just not there.

    Where it is installed and cannot be imported all the same, the line tells of a fault and is printed.
    """
    if all(find_spec(name) is not None for name in ONEDL_PACKAGES):
        yield
        return
    with contextlib.redirect_stdout(cast(TextIO, _WithoutLine(sys.stdout, ONEDL_LINE))):
        yield


def _screens(logger: logging.Logger) -> list[logging.Handler]:
    return [
        handler
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)
    ]


class _WithoutLine:
    """Passes on all that is written but one line, which ``print`` hands over as its text and then the line's end.

    A logger may keep this stream for good; it goes on writing to the one below.
    """

    def __init__(self, stream: TextIO, line: str) -> None:
        self.stream, self.line, self.dropped = stream, line, False

    def write(self, text: str) -> int:
        end_of_dropped, self.dropped = self.dropped and text == '\n', text == self.line
        if not end_of_dropped and not self.dropped:
            self.stream.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
