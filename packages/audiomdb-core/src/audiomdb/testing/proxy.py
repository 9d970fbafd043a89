"""A network that is slow, narrow and fails: a TCP proxy between a real client and a real server.

    with FaultProxy("http://127.0.0.1:9000", latency_s=0.03, bytes_per_second=50e6) as proxy:
        retriever = S3Retriever("bucket", "speech", endpoint_url=proxy.url)
        proxy.fail("reset", after=2_000_000)   # every connection breaks after 2 MB of answers
        read(retriever)
        proxy.heal()
        print(proxy.stats.answer_bytes, proxy.stats.faults)

It knows nothing of the protocol that runs through it, except where a fault is about HTTP (see
`audiomdb.testing.Fault`). One thread for each connection; several hundred MB/s through one core.
Where it must not share Python's lock with what is measured, `audiomdb.testing.ProxyProcess` is the
same in a process of its own.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from urllib.parse import urlsplit

from audiomdb.testing.connection import Connection, break_off
from audiomdb.testing.faults import Fault, FaultKind
from audiomdb.testing.wire import ProxyStats, Wire

__all__ = ["FaultProxy"]

_CONNECT_TIMEOUT_S = 10.0


class FaultProxy:
    """Passes TCP connections on to a server: late, slowly, or not to their end.

    Listens from the moment it is made until `close`, on a free port of 127.0.0.1. Its settings may
    be changed at any time, from any thread, and hold for running connections too.

    Args:
        target: Of the server: a URL, or host and port.
        latency_s: Seconds that every request takes longer. A request is what a client sends after
            the server has spoken, in any protocol, so that it is round trips that cost.
        bytes_per_second: What all connections together can carry, in each direction. None: all.

    Attributes:
        address: Host and port to connect to.
        url: What `target` was, with the proxy's host and port.
    """

    def __init__(
        self,
        target: str | tuple[str, int],
        *,
        latency_s: float = 0.0,
        bytes_per_second: float | None = None,
    ) -> None:
        self._wire = Wire(latency_s, bytes_per_second)
        self._target, scheme, path = _parse(target)
        self._lock = threading.Lock()
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
        """Fail from now on, in one way; see `Fault` for the arguments.

        `then` is called each time it strikes, in a thread of the proxy and before the client can
        notice; it may set another fault.
        """
        fault = Fault(kind=kind, after=after, times=times, match=match, status=status, body=body)
        self.set_fault(fault, then=then)

    def heal(self) -> None:
        """Fail no more. Connections that were stalled stay so."""
        self.set_fault(None)

    def set_fault(self, fault: Fault | None, *, then: Callable[[], object] | None = None) -> None:
        """Fail in this way, or not at all."""
        self._wire.set_fault(fault, then)

    @property
    def latency_s(self) -> float:
        """Seconds that every request takes longer; may be set."""
        return self._wire.latency_s

    @latency_s.setter
    def latency_s(self, latency_s: float) -> None:
        self._wire.latency_s = latency_s

    @property
    def bytes_per_second(self) -> float | None:
        """What the line carries; may be set."""
        return self._wire.bytes_per_second

    @bytes_per_second.setter
    def bytes_per_second(self, bytes_per_second: float | None) -> None:
        self._wire.bytes_per_second = bytes_per_second

    @property
    def stats(self) -> ProxyStats:
        """What has gone through since the start, or since `reset_stats`."""
        return self._wire.stats

    def reset_stats(self) -> None:
        """Count from 0 again."""
        self._wire.reset_stats()

    def close(self) -> None:
        """End all connections, and listen no more. May be called twice."""
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


def _parse(target: str | tuple[str, int]) -> tuple[tuple[str, int], str, str]:
    """Address, scheme and path of a target."""
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
