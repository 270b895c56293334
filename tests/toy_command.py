"""The ``mmetris`` command in this process."""

from __future__ import annotations

from typing import Any

import pytest

from mmetris.cli import mmetris_command, run


def ask_command(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[Any, str, str]:
    """Run the command.

    Args:
        capsys: Of the test.
        *arguments: Its words.

    Returns:
        Exit status, what it printed, and its errors.
    """
    try:
        run(mmetris_command, [*map(str, arguments)])
        status: Any = 0
    except SystemExit as error:
        status = error.code or 0
    return (status, *capsys.readouterr())
