"""What tests of failing and full disks share."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["mounted_disk", "refuse_stat"]


def refuse_stat(monkeypatch: pytest.MonkeyPatch, path: Path, number: int) -> None:
    """Make the disk fail with an error number where it is asked about a file."""
    stat = os.stat

    def failing(asked: Any, *args: Any, **options: Any) -> os.stat_result:
        if str(asked) == str(path):
            raise OSError(number, os.strerror(number))
        return stat(asked, *args, **options)

    monkeypatch.setattr(os, "stat", failing)


@contextmanager
def mounted_disk(folder: Path, size: str, *, lazily: bool = False) -> Iterator[Path]:
    """A disk of some size, such as "640k", mounted as a new folder; skips if that is not allowed.

    Args:
        folder: The folder.
        size: Size of the disk, as `mount` takes it.
        lazily: Unmount it even if files of it are open, as those of a failed test may be.
    """
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk has to be mounted, which this user may not")
    try:
        yield folder
    finally:
        subprocess.run(["umount", *(["--lazy"] if lazily else []), str(folder)], check=True)
