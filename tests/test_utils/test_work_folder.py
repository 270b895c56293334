"""One training at a time in a work folder."""

import os
from pathlib import Path

import pytest

from mmetris.utils.work_folder import IN_USE, FolderInUseError, held


def test_nobody_else_holds_the_folder_and_the_next_one_does(tmp_path):
    work = tmp_path / 'new' / 'work'
    for _ in range(2):
        with held(work):
            assert (work / IN_USE).read_text() == f'{os.getpid()}\n'
            with pytest.raises(FolderInUseError, match=f'process {os.getpid()} trains into it'), held(work):
                pass
            assert (work / IN_USE).exists()
        assert list(work.iterdir()) == []


def test_a_file_that_its_holder_removes_meanwhile_holds_nothing(tmp_path, monkeypatch):
    """The holder of before ends between the opening of its file and the lock on it."""
    opened = Path.open
    before = []

    def open_and_lose(path, *arguments):
        file = opened(path, *arguments)
        if not before:
            before.append(path)
            path.unlink()
        return file

    monkeypatch.setattr(Path, 'open', open_and_lose)
    with held(tmp_path):
        assert before == [tmp_path / IN_USE] and before[0].exists()
        with pytest.raises(FolderInUseError), held(tmp_path):
            pass
