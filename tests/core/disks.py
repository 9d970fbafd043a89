"""What tests of failing disks share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

__all__ = ["refuse_stat"]


def refuse_stat(monkeypatch: pytest.MonkeyPatch, path: Path, number: int) -> None:
    """Make the disk fail with an error number where it is asked about a file."""
    stat = os.stat

    def failing(asked: Any, *args: Any, **options: Any) -> os.stat_result:
        if str(asked) == str(path):
            raise OSError(number, os.strerror(number))
        return stat(asked, *args, **options)

    monkeypatch.setattr(os, "stat", failing)
