"""The fault proxy in a process of its own, so that it takes no time from what is measured."""

from __future__ import annotations

import subprocess
import sys
from types import TracebackType
from typing import Any

import msgspec

from audiomdb.testing.faults import Fault, FaultKind
from audiomdb.testing.proxy import FaultProxy, parse_target
from audiomdb.testing.wire import ProxyStats, check_line

__all__ = ["ProxyProcess"]

_PROGRAM = f"from {__name__} import _serve; _serve()"


class _Settings(msgspec.Struct, frozen=True):
    """Settings for the proxy from now on; `reset` also resets its counts."""

    latency_s: float = 0.0
    bytes_per_second: float | None = None
    fault: Fault | None = None
    new_fault: bool = False
    reset: bool = False


class ProxyProcess:
    """A `FaultProxy` that runs in another process, used like one.

        with ProxyProcess("http://127.0.0.1:9000", latency_s=0.03, bytes_per_second=50e6) as proxy:
            read(S3Retriever("bucket", "speech", endpoint_url=proxy.url))

    It ends with `close`, or with the process that made it. Not thread-safe.

    Args:
        target: The server: a URL, or host and port.
        latency_s: Seconds by which every request is delayed.
        bytes_per_second: Bandwidth that all connections share, in each direction. None: no limit.

    Raises:
        ValueError: as for `FaultProxy`.
    """

    def __init__(
        self,
        target: str | tuple[str, int],
        *,
        latency_s: float = 0.0,
        bytes_per_second: float | None = None,
    ) -> None:
        check_line(latency_s, bytes_per_second)
        parse_target(target)
        self._process = subprocess.Popen(  # noqa: S603 - this module, run by this Python
            [sys.executable, "-c", _PROGRAM, msgspec.json.encode(target).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._latency_s = latency_s
        self._bytes_per_second = bytes_per_second
        self.url: str = self._read()
        host, port = self._read()
        self.address: tuple[str, int] = (host, port)
        self._order()

    @property
    def latency_s(self) -> float:
        """Seconds by which every request is delayed; may be set."""
        return self._latency_s

    @latency_s.setter
    def latency_s(self, latency_s: float) -> None:
        check_line(latency_s, None)
        self._latency_s = latency_s
        self._order()

    @property
    def bytes_per_second(self) -> float | None:
        """Bandwidth that all connections share, in each direction; may be set."""
        return self._bytes_per_second

    @bytes_per_second.setter
    def bytes_per_second(self, bytes_per_second: float | None) -> None:
        check_line(0, bytes_per_second)
        self._bytes_per_second = bytes_per_second
        self._order()

    def fail(
        self,
        kind: FaultKind,
        *,
        after: int = 0,
        times: int | None = None,
        match: str | None = None,
        status: int = 503,
        body: bytes = b"",
    ) -> None:
        """Set the fault to simulate from now on; see `Fault` for the arguments."""
        self.set_fault(
            Fault(kind=kind, after=after, times=times, match=match, status=status, body=body)
        )

    def heal(self) -> None:
        """Stop failing."""
        self.set_fault(None)

    def set_fault(self, fault: Fault | None) -> None:
        """Set the fault to simulate from now on, or None for no fault."""
        self._order(fault=fault, new_fault=True)

    @property
    def stats(self) -> ProxyStats:
        """Counts of what has passed since the start, or since `reset_stats`."""
        return self._order()

    def reset_stats(self) -> None:
        """Reset all counts to 0."""
        self._order(reset=True)

    def close(self) -> None:
        """End the process. May be called twice."""
        with self._process:
            pass  # closes the process's stdin, which ends it, and waits

    def __enter__(self) -> ProxyProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _order(
        self, *, fault: Fault | None = None, new_fault: bool = False, reset: bool = False
    ) -> ProxyStats:
        settings = _Settings(self._latency_s, self._bytes_per_second, fault, new_fault, reset)
        assert self._process.stdin is not None, "it was made with a pipe"
        self._process.stdin.write(msgspec.json.encode(settings) + b"\n")
        self._process.stdin.flush()
        return msgspec.convert(self._read(), ProxyStats)

    def _read(self) -> Any:  # noqa: ANN401
        assert self._process.stdout is not None, "it was made with a pipe"
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the proxy's process has ended")
        return msgspec.json.decode(line)


def _write(value: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


def _serve() -> None:
    with FaultProxy(msgspec.json.decode(sys.argv[1], type=str | tuple[str, int])) as proxy:
        _write(proxy.url)
        _write(proxy.address)
        for line in sys.stdin.buffer:
            settings = msgspec.json.decode(line, type=_Settings)
            proxy.latency_s = settings.latency_s
            proxy.bytes_per_second = settings.bytes_per_second
            if settings.new_fault:
                proxy.set_fault(settings.fault)
            if settings.reset:
                proxy.reset_stats()
            _write(proxy.stats)
