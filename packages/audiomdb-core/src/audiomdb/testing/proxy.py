"""TCP proxy that makes the connection between a client and a server slow, narrow or faulty.

    with FaultProxy("http://127.0.0.1:9000", latency_s=0.03, bytes_per_second=50e6) as proxy:
        retriever = S3Retriever("bucket", "speech", endpoint_url=proxy.url)
        proxy.fail("reset", after=2_000_000)   # every connection breaks after 2 MB of answers
        read(retriever)
        proxy.heal()
        print(proxy.stats.answer_bytes, proxy.stats.faults)

The proxy knows nothing of the protocol that it forwards, except for faults that are about HTTP (see
`audiomdb.testing.Fault`). It uses one thread for each connection and forwards several hundred MB/s
on one core. `audiomdb.testing.ProxyProcess` is the same in a process of its own, for measurements
that must not share the GIL with the proxy.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from urllib.parse import urlsplit

from audiomdb.locks import Lock
from audiomdb.testing.connection import Connection, break_off
from audiomdb.testing.faults import Fault, FaultKind
from audiomdb.testing.wire import ProxyStats, Wire, check_line

__all__ = ["FaultProxy", "parse_target"]

_CONNECT_TIMEOUT_S = 10.0


class FaultProxy:
    """Forwards TCP connections to a server: late, slowly, or not to their end.

    Listens on a free port of 127.0.0.1 from construction until `close`. Its settings may be changed
    at any time, from any thread, and apply to open connections too.

    Args:
        target: The server: a URL, or host and port.
        latency_s: Seconds by which every request is delayed. A request is what a client sends after
            the server has responded, in any protocol, so that every round trip pays the latency.
        bytes_per_second: Bandwidth that all connections share, in each direction. None: no limit.

    Raises:
        ValueError: when the target has no host or port, or a number is out of range.

    Attributes:
        address: Host and port to connect to.
        url: URL of the target, with the proxy's host and port.
    """

    def __init__(
        self,
        target: str | tuple[str, int],
        *,
        latency_s: float = 0.0,
        bytes_per_second: float | None = None,
    ) -> None:
        check_line(latency_s, bytes_per_second)
        self._wire = Wire(latency_s, bytes_per_second)
        self._target, scheme, path = parse_target(target)
        self._lock = Lock()
        self._connections: set[Connection] = set()
        self._threads: list[threading.Thread] = []
        self._server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address: tuple[str, int] = self._server.getsockname()[:2]
        self.url = f"{scheme}://{self.address[0]}:{self.address[1]}{path}"
        self._acceptor = threading.Thread(target=self._accept, name="fault-proxy", daemon=True)
        self._acceptor.start()

    def fail(
        self,
        kind: FaultKind,
        *,
        after: int = 0,
        times: int | None = None,
        match: str | None = None,
        status: int = 503,
        body: bytes = b"",
        then: Callable[[], object] | None = None,
    ) -> None:
        """Set the fault to simulate from now on; see `Fault` for the arguments.

        `then` is called each time the fault strikes, in a thread of the proxy and before the client
        can notice; it may set another fault.
        """
        fault = Fault(kind=kind, after=after, times=times, match=match, status=status, body=body)
        self.set_fault(fault, then=then)

    def heal(self) -> None:
        """Stop failing. Connections that were stalled stay so."""
        self.set_fault(None)

    def set_fault(self, fault: Fault | None, *, then: Callable[[], object] | None = None) -> None:
        """Set the fault to simulate from now on, or None for no fault."""
        self._wire.set_fault(fault, then)

    @property
    def latency_s(self) -> float:
        """Seconds by which every request is delayed; may be set."""
        return self._wire.latency_s

    @latency_s.setter
    def latency_s(self, latency_s: float) -> None:
        check_line(latency_s, None)
        self._wire.latency_s = latency_s

    @property
    def bytes_per_second(self) -> float | None:
        """Bandwidth that all connections share, in each direction; may be set."""
        return self._wire.bytes_per_second

    @bytes_per_second.setter
    def bytes_per_second(self, bytes_per_second: float | None) -> None:
        check_line(0, bytes_per_second)
        self._wire.bytes_per_second = bytes_per_second

    @property
    def stats(self) -> ProxyStats:
        """Counts of what has passed since the start, or since `reset_stats`."""
        return self._wire.stats

    def reset_stats(self) -> None:
        """Reset all counts to 0."""
        self._wire.reset_stats()

    def close(self) -> None:
        """End all connections, and stop listening. May be called twice."""
        self._wire.ended.set()
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._acceptor.join()
        with self._lock:
            connections, threads = list(self._connections), list(self._threads)
        for connection in connections:
            connection.end()
        for thread in threads:
            thread.join()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self._wire.count("connections")
            thread = threading.Thread(
                target=self._serve, args=(client,), name="fault-proxy-connection", daemon=True
            )
            with self._lock:
                self._threads = [t for t in self._threads if t.is_alive()] + [thread]
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            if self._wire.refuses():
                break_off(client)
                return
            with suppress(OSError), socket.create_connection(self._target, _CONNECT_TIMEOUT_S) as s:
                s.settimeout(None)
                connection = Connection(self._wire, client, s)
                with self._lock:
                    self._connections.add(connection)
                try:
                    if not self._wire.ended.is_set():
                        connection.run()
                finally:
                    connection.end()
                    with self._lock:
                        self._connections.discard(connection)


def parse_target(target: str | tuple[str, int]) -> tuple[tuple[str, int], str, str]:
    """Return address, scheme and path of a target.

    Raises:
        ValueError: when it has no host or no port.
    """
    if not isinstance(target, str):
        return target, "tcp", ""
    parts = urlsplit(target)
    ports = {"http": 80, "redis": 6379}
    port = parts.port or ports.get(parts.scheme)
    if not parts.hostname or port is None:
        raise ValueError(
            f"target is {target!r}, expected a URL with host and port, such as http://127.0.0.1:9000"
        )
    return (parts.hostname, port), parts.scheme, parts.path
