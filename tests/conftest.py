"""Fixtures that several packages' tests share, and how a failed assertion is told."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# How long an example takes hangs on what else the machine has to do.
settings.register_profile("audiomdb", deadline=None)
settings.load_profile("audiomdb")

# Run by tests, in processes of their own.
collect_ignore_glob = ["*/programs/*"]


MOST_PAIRS = 100_000
"""Pairs of lines that differ, each of which pytest compares: so many take it some seconds."""


def lines_of(value: object) -> int:
    """About how many lines a value takes where pytest shows all of it."""
    if isinstance(value, bytes | bytearray):
        return 1 + len(value) // 20
    if isinstance(value, Mapping):
        value = list(value.values())
    return sum(map(lines_of, value)) if isinstance(value, list | tuple) else 1


@pytest.hookimpl(wrapper=True)
def pytest_assertrepr_compare(
    config: pytest.Config, left: object, right: object
) -> Generator[None, Any, Any]:
    """Tell where large values differ, not all of what does.

    On a CI server, and with `-v`, pytest compares values line by line, which takes it hours for the
    bytes of a shard.
    """
    with pytest.MonkeyPatch.context() as patch:
        if lines_of(left) * lines_of(right) > MOST_PAIRS:
            patch.delenv("CI", raising=False)
            patch.delenv("BUILD_NUMBER", raising=False)
            patch.setattr(config.option, "verbose", 0)
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_reaches_children() -> None:
    """Undo what a shell does to the jobs it starts in the background: they ignore Ctrl-C.

    Programs inherit that, and some tests send it to theirs.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def short_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed downloads are tried again at once, and caches lie in the test's folder."""
    monkeypatch.setattr("audiomdb.cache.retry.FIRST_WAIT_S", 1e-6)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))


@pytest.fixture
def read_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Path]]:
    """Make a folder unwritable, for the superuser too; gives the path to use it under.

    Permissions do not bind the superuser, so there the folder is mounted read-only somewhere else.
    """
    mounted: list[Path] = []
    changed: list[tuple[Path, int]] = []

    def protect(folder: Path) -> Path:
        if os.geteuid() != 0:
            for path in [folder, *(p for p in folder.rglob("*") if p.is_dir())]:
                changed.append((path, path.stat().st_mode))
                path.chmod(0o555)
            return folder
        media = tmp_path_factory.mktemp("media")
        if subprocess.run(["mount", "--bind", folder, media], capture_output=True).returncode:
            pytest.skip("the superuser of a container that may not mount can write everywhere")
        mounted.append(media)
        subprocess.run(["mount", "-o", "remount,ro,bind", media], check=True)
        return media

    yield protect
    for media in mounted:
        subprocess.run(["umount", media], check=True)
    for path, mode in changed:
        path.chmod(mode)
