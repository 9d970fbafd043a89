"""What the tests of commands and uploads share."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from audiomdb.cli import main
from audiomdb.testing.kits.conformance import files_in

__all__ = ["files", "output", "run_command", "run_in_terminal"]


def output(capsys: pytest.CaptureFixture[str], *args: str | Path, code: int = 0) -> str:
    """What a command, run in this process, printed before it exited with `code`."""
    assert main(list(map(str, args))) == code
    printed = capsys.readouterr()
    return printed.out + printed.err


def run_command(*args: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What a command did in a process of its own."""
    command = [sys.executable, "-m", "audiomdb.cli", *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def run_in_terminal(code: str, *arguments: object) -> str:
    """What a program prints to a terminal of its own."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # EIO is how Linux says that the other side is closed
                break
            if not piece:
                break
            seen += piece
        assert process.wait() == 0, seen.decode()
    os.close(ours)
    return seen.decode()


def files(folder: Path, prefix: str = "") -> dict[str, bytes]:
    """Content of all files in a folder, by `prefix` and the path in it."""
    return {prefix + path: content for path, content in files_in(folder).items()}
