"""What the tests of commands and uploads share."""

from __future__ import annotations

from pathlib import Path

import pytest

from audiomdb.cli import main

__all__ = ["files", "output"]


def output(capsys: pytest.CaptureFixture[str], *args: str | Path, code: int = 0) -> str:
    """What a command, run in this process, printed before it exited with `code`."""
    assert main(list(map(str, args))) == code
    printed = capsys.readouterr()
    return printed.out + printed.err


def files(folder: Path, prefix: str = "") -> dict[str, bytes]:
    """Content of all files in a folder, by `prefix` and the path in it."""
    return {
        prefix + path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
