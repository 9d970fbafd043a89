"""The state of the proxy's simulated network: latency, bandwidth, fault and counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec

from audiomdb.locks import Lock
from audiomdb.testing.faults import Fault

__all__ = ["ProxyStats", "Way", "Wire", "check_line"]

Way: TypeAlias = Literal["request", "answer"]
"""Direction of bytes: from a client to the server, or back."""

_BUFFER_BYTES = 256 * 1024
_SMALLEST_CHUNK = 4 * 1024
_CHUNKS_PER_SECOND = 200
"""Chunks per second on a line of limited bandwidth, so that connections share it evenly."""

_SLACK_S = 0.01
"""Seconds that a line may catch up on, because waits end a little late."""


class ProxyStats(msgspec.Struct, frozen=True):
    """Counts of what has passed through a proxy.

    Attributes:
        connections: Connections made by clients.
        requests: Times a client spoke after the server had (or first).
        request_bytes: Bytes from clients to the server.
        answer_bytes: Bytes from the server to clients.
        faults: Times a fault struck.
    """

    connections: int = 0
    requests: int = 0
    request_bytes: int = 0
    answer_bytes: int = 0
    faults: int = 0


def check_line(latency_s: float, bytes_per_second: float | None) -> None:
    """Reject a latency and a bandwidth that no line can have.

    Raises:
        ValueError: when one of them is out of range.
    """
    if latency_s < 0:
        raise ValueError(f"latency_s is {latency_s}, expected seconds, 0 or more")
    if bytes_per_second is not None and bytes_per_second <= 0:
        raise ValueError(
            f"bytes_per_second is {bytes_per_second}, expected more than 0, or None for no limit"
        )


class Wire:
    """The state that all connections of a proxy share. Thread-safe.

    Attributes:
        latency_s: Seconds by which every request is delayed.
        bytes_per_second: Bandwidth that all connections share, in each direction. None: no limit.
        ended: Set when the proxy is closed.
    """

    def __init__(self, latency_s: float, bytes_per_second: float | None) -> None:
        self.latency_s = latency_s
        self.bytes_per_second = bytes_per_second
        self.ended = threading.Event()
        self._lock = Lock()
        self._fault: Fault | None = None
        self._left: int | None = None
        self._then: Callable[[], object] | None = None
        self._since = 0  # bytes that have passed since the fault was set
        self._counts: dict[str, int] = dict.fromkeys(ProxyStats.__struct_fields__, 0)
        self._lines: dict[Way, _Line] = {"request": _Line(), "answer": _Line()}

    @property
    def fault(self) -> Fault | None:
        """The fault to simulate, or None."""
        return self._fault

    def set_fault(self, fault: Fault | None, then: Callable[[], object] | None) -> None:
        """Set the fault to simulate, or None for none; `then` is called each time it strikes."""
        with self._lock:
            self._fault = fault
            self._left = fault.times if fault else None
            self._then = then
            self._since = 0

    def claim(self, fault: Fault) -> bool:
        """Return whether a fault strikes now; if so, count it and call `then`."""
        with self._lock:
            if fault is not self._fault or self._left == 0:
                return False
            if self._left is not None:
                self._left -= 1
            self._counts["faults"] += 1
            then = self._then
        if then is not None:
            then()
        return True

    def refuses(self) -> bool:
        """Return whether to end a new connection."""
        fault = self._fault
        if fault is None or not (fault.kind == "refuse" or self._is_down(fault)):
            return False
        return self.claim(fault)

    def is_up_for(self, size: int) -> bool:
        """Count bytes in either direction, and return whether they may pass."""
        with self._lock:
            self._since += size
            fault = self._fault
        return fault is None or not self._is_down(fault) or not self.claim(fault)

    def delay(self) -> None:
        """Wait for the latency of a request."""
        if self.latency_s > 0:
            self.ended.wait(self.latency_s)

    def carry(self, way: Way, size: int) -> None:
        """Wait until the line has carried this many bytes, and count them."""
        if self.bytes_per_second is not None:
            self._lines[way].carry(size, self.bytes_per_second, self.ended)
        self.count(f"{way}_bytes", size)

    @property
    def chunk_bytes(self) -> int:
        """Number of bytes to carry at once."""
        if self.bytes_per_second is None:
            return _BUFFER_BYTES
        even = int(self.bytes_per_second / _CHUNKS_PER_SECOND)
        return min(max(even, _SMALLEST_CHUNK), _BUFFER_BYTES)

    def count(self, name: str, amount: int = 1) -> None:
        """Add to one of the counts, which have the names of `ProxyStats`."""
        with self._lock:
            self._counts[name] += amount

    @property
    def stats(self) -> ProxyStats:
        """Counts of what has passed since the start, or since `reset_stats`."""
        with self._lock:
            return ProxyStats(**self._counts)

    def reset_stats(self) -> None:
        """Reset all counts to 0."""
        with self._lock:
            self._counts = dict.fromkeys(self._counts, 0)

    def _is_down(self, fault: Fault) -> bool:
        return fault.kind == "down" and self._since > fault.after


class _Line:
    """One direction of a line of limited bandwidth, which all connections share."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._free_at = 0.0

    def carry(self, size: int, bytes_per_second: float, ended: threading.Event) -> None:
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - _SLACK_S) + size / bytes_per_second
            wait_s = self._free_at - now
        if wait_s > 0:
            ended.wait(wait_s)
