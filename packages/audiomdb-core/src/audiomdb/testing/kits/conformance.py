"""What all kits have in common."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

__all__ = ["Conformance", "Held", "allocated_bytes", "disk_bytes", "files_in", "wait_until"]

_PATIENCE_S = 60.0
_LEAK_PATIENCE_S = 5.0


class Conformance:
    """Base of the kits: classes of tests to subclass, one subclass for each thing under test.

    A subclass provides what the kit asks for and inherits the tests; their names say what is
    expected. Where one cannot hold, there are two ways out, and both can be seen: a class
    attribute of the kit, or overriding the test with a reason:

        @pytest.mark.xfail(reason="the store has no ranges")
        def test_a_broken_download_goes_on_where_it_stopped(self, ...): ...
    """

    def test_no_test_is_left_out_without_a_reason(self) -> None:
        """A test was overridden. Mark it xfail or skip, with `reason=`, or let it be inherited."""
        kits = [kind for kind in type(self).__mro__ if kind.__module__.startswith(__package__)]
        inherited = {
            name: test for kit in kits for name, test in vars(kit).items() if name[:5] == "test_"
        }
        missing = [
            name
            for name, test in inherited.items()
            if (own := getattr(type(self), name, None)) is not test and not _has_reason(own)
        ]
        assert missing == []


def _has_reason(test: object) -> bool:
    marks: Iterable[pytest.Mark] = getattr(test, "pytestmark", ())
    return any(mark.name in ("skip", "xfail") and mark.kwargs.get("reason") for mark in marks)


def wait_until(condition: Callable[[], bool], patience_s: float = _PATIENCE_S) -> bool:
    """Wait for what another thread or process does; False when it does not come about."""
    end = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


class Held:
    """What a process holds that it should give back: descriptors and threads, counted when made."""

    def __init__(self) -> None:
        self._descriptors, self._threads = _descriptors(), threading.active_count()

    def __repr__(self) -> str:
        now = _descriptors(), [thread.name for thread in threading.enumerate()]
        return f"{self._descriptors} descriptors and {self._threads} threads, now {now}"

    def is_given_back(self) -> bool:
        """Whether there is no more of it now.

        Waits a little: a server in this process closes its end of a connection later.
        """
        return wait_until(
            lambda: (
                _descriptors() <= self._descriptors and threading.active_count() <= self._threads
            ),
            _LEAK_PATIENCE_S,
        )


def _descriptors() -> int:
    gc.collect()
    return sum(1 for _ in Path("/dev/fd").iterdir())


def disk_bytes(folder: str | os.PathLike[str]) -> int:
    """Size of all files in a folder, hidden ones too, that others change meanwhile."""
    return sum(status.st_size for status in _statuses(folder))


def allocated_bytes(folder: str | os.PathLike[str]) -> int:
    """What files in a folder take up on the disk: of one that is being written, what has come."""
    return sum(status.st_blocks * 512 for status in _statuses(folder))


def _statuses(folder: str | os.PathLike[str]) -> Iterator[os.stat_result]:
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                yield Path(parent, name).stat()
            except FileNotFoundError:
                continue


def files_in(folder: Path) -> dict[str, bytes]:
    """Content by path, with "/"."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
