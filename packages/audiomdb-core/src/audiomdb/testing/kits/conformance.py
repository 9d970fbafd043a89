"""Base class and helpers of all conformance kits."""

from __future__ import annotations

import gc
import inspect
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest

from audiomdb.cache.lock import exclusive
from audiomdb.shards.files import bytes_below, sha256_hex
from audiomdb.testing.proxy import FaultProxy
from audiomdb.testing.store import Store

__all__ = [
    "Conformance",
    "Held",
    "StoreConformance",
    "allocated_bytes",
    "cached_bytes",
    "expect_same",
    "files_in",
    "wait_until",
]

_PATIENCE_S = 60.0
_LEAK_PATIENCE_S = 5.0
_SECOND_ALARM_S = 10.0


class Conformance:
    """Base of the kits: test classes to subclass, one subclass for each class under test.

    A subclass provides what the kit asks for and inherits the tests, whose names say what is
    expected. If a test cannot hold, there are two ways out, both visible: set a class attribute of
    the kit, or override the test with a reason:

        @pytest.mark.xfail(reason="the store has no ranges")
        def test_a_broken_download_goes_on_where_it_stopped(self, ...): ...
    """

    longest_test_s: ClassVar[float] = 120.0

    @pytest.fixture(autouse=True)
    def time_limit(self, request: pytest.FixtureRequest) -> Iterator[None]:
        """Fail a test that hangs, rather than wait with it."""
        free = signal.getsignal(signal.SIGALRM) is signal.SIG_DFL  # pytest-timeout uses it too
        if not free or threading.current_thread() is not threading.main_thread():
            yield
            return

        def ring(*_: Any) -> None:  # noqa: ANN401
            pytest.fail(
                f"{request.node.name} has not ended after {self.longest_test_s:g} s "
                "(longest_test_s); the traceback shows where the test waits. Give every call that "
                "may block a timeout"
            )

        signal.signal(signal.SIGALRM, ring)
        # More than once: the `with` blocks that the test then leaves may wait for what hangs.
        signal.setitimer(signal.ITIMER_REAL, self.longest_test_s, _SECOND_ALARM_S)
        yield
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    @pytest.fixture(autouse=True)
    def advice(self, request: pytest.FixtureRequest) -> None:
        """Show what a test is about if it fails, with short tracebacks too."""
        docstring = inspect.getdoc(request.function)
        if docstring:
            request.node.add_report_section("call", "advice", docstring)

    def test_no_test_is_left_out_without_a_reason(self) -> None:
        """Overridden tests must be marked xfail or skip, with `reason=`; others are inherited."""
        kits = [kind for kind in type(self).__mro__ if kind.__module__.startswith(__package__)]
        inherited = {
            name: test for kit in kits for name, test in vars(kit).items() if name[:5] == "test_"
        }
        missing = [
            name
            for name, test in inherited.items()
            if (own := getattr(type(self), name, None)) is not test and not _has_reason(own)
        ]
        assert missing == [], "overridden without a mark that has a reason"


class StoreConformance(Conformance):
    """Base of the kits for classes that read or write a store."""

    @pytest.fixture
    def store(self) -> Store:
        """An empty place for one dataset. To be defined by the subclass."""
        raise NotImplementedError(f"{type(self).__name__} has to define a fixture named store")

    @pytest.fixture
    def proxy(self, store: Store) -> Iterator[FaultProxy]:
        """A proxy in front of the store's server, to make the network fail."""
        if store.endpoint is None:
            pytest.skip("there is no network to this store")
        with FaultProxy(store.endpoint) as proxy:
            yield proxy

    @pytest.fixture
    def http(self, store: Store) -> None:
        """Skip the test unless the store speaks HTTP without encryption."""
        if not str(store.endpoint).startswith("http:"):
            pytest.skip("the store does not speak HTTP without encryption")

    def endpoint_of(
        self, store: Store, through: FaultProxy | None = None
    ) -> str | tuple[str, int] | None:
        """Return the address of the store's server, or of a proxy in the same form."""
        if through is None:
            return store.endpoint
        return through.url if isinstance(store.endpoint, str) else through.address


def _has_reason(test: object) -> bool:
    marks: Iterable[pytest.Mark] = getattr(test, "pytestmark", ())
    return any(mark.name in ("skip", "xfail") and mark.kwargs.get("reason") for mark in marks)


def wait_until(condition: Callable[[], bool], patience_s: float = _PATIENCE_S) -> bool:
    """Wait for a condition that another thread or process brings about; False on timeout."""
    end = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


class Held:
    """Counts file descriptors and threads of this process when made, to detect leaks later."""

    def __init__(self) -> None:
        self._descriptors, self._threads = _descriptors(), threading.active_count()

    def __repr__(self) -> str:
        now = _descriptors(), [thread.name for thread in threading.enumerate()]
        return f"{self._descriptors} descriptors and {self._threads} threads, now {now}"

    def is_given_back(self) -> bool:
        """Return whether there are no more file descriptors and threads than at the start.

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


def cached_bytes(folder: Path) -> int:
    """Return the bytes below a folder that has one cache, counted while nothing comes or goes."""
    # The first: a look through all folders may meet one that is being deleted.
    with exclusive(next(folder.rglob("budget.lock"))):
        return bytes_below(folder)


def allocated_bytes(folder: str | os.PathLike[str]) -> int:
    """Disk space allocated to files in a folder: of one being written, only what has arrived."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # others may change it meanwhile
                total += Path(parent, name).stat().st_blocks * 512
    return total


def files_in(folder: Path) -> dict[str, bytes]:
    """Read all files in a folder; content by relative path, with "/"."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def expect_same(found: Mapping[str, bytes | None], expected: Mapping[str, bytes | None]) -> None:
    """Fail if files differ, and say which.

    An assertion about the bytes themselves would not do: on a CI server, or with `-vv`, pytest
    compares values that differ line by line, which takes hours for a shard.

    Args:
        found: Content by path; None where there is no file.
        expected: The same, as it should be.
    """
    __tracebackhide__ = True
    wrong = [
        f"{path}: {_described(found.get(path))}, expected {_described(expected.get(path))}"
        for path in sorted({*found, *expected})
        if found.get(path) != expected.get(path)
    ]
    assert wrong == [], "these files are not what they should be"


def _described(content: bytes | None) -> str:
    if content is None:
        return "no file"
    return f"{len(content)} bytes with sha256 {sha256_hex(content)}"
