"""One connection through the fault proxy, from a client to the server and back."""

from __future__ import annotations

import select
import socket
import struct
from contextlib import suppress
from typing import NoReturn

from audiomdb.testing.faults import (
    END_OF_HEAD,
    Fault,
    announced_body,
    announcing_less,
    answer_of,
    is_request,
    without_range,
)
from audiomdb.testing.wire import Wire

__all__ = ["Connection", "break_off"]

_BUFFER_BYTES = 256 * 1024
_SMALLEST_CHUNK = 4 * 1024
_LONGEST_HEAD = 64 * 1024


class _Struck(Exception):  # noqa: N818
    """Raised to end a connection."""


class Connection:
    """Forwards bytes between one client and the server, in one thread.

    A second thread in recv() would keep the system from sending a reset when the first one closes.
    """

    def __init__(self, wire: Wire, client: socket.socket, server: socket.socket) -> None:
        self._wire = wire
        self._client = client
        self._server = server
        self._answering = True  # so that the client's first bytes begin a request
        self._answered = 0  # bytes since the connection, or the matching request, began
        self._armed: Fault | None = None  # the fault that the current request matched
        self._head = b""  # of a response, while it is incomplete
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def run(self) -> None:
        """Forward bytes until one side closes the connection or a fault ends it."""
        buffer = memoryview(bytearray(_BUFFER_BYTES))
        poll = select.poll()
        ends = {end.fileno(): end for end in (self._server, self._client)}
        for fd in ends:
            poll.register(fd, select.POLLIN)
        with suppress(_Struck, OSError):
            while True:
                for fd, _ in poll.poll():
                    size = ends[fd].recv_into(buffer[: self._wire.chunk_bytes])
                    if size == 0:
                        return
                    if ends[fd] is self._client:
                        self._ask(buffer[:size])
                    else:
                        self._answer(buffer[:size])

    def end(self) -> None:
        """Shut the connection down. May be called from any thread."""
        for end in (self._client, self._server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _ask(self, data: memoryview) -> None:
        if self._answering:
            self._answering = False
            self._wire.count("requests")
            self._wire.delay()
            fault = self._wire.fault
            self._armed = None
            self._head = b""
            if fault is not None and fault.reads_heads:
                data = memoryview(self._meet(fault, bytes(data)))
        if not self._wire.is_up_for(len(data)):
            self._break_off()
        self._wire.carry("request", len(data))
        self._server.sendall(data)

    def _meet(self, fault: Fault, data: bytes) -> bytes:
        """Apply a fault to a request, and return the bytes to forward."""
        if not is_request(data):
            return data
        while END_OF_HEAD not in data and len(data) < _LONGEST_HEAD:
            more = self._client.recv(_SMALLEST_CHUNK)
            if not more:
                return data
            data += more
        head, end, body = data.partition(END_OF_HEAD)
        if not fault.concerns(head):
            return data
        if fault.kind == "status":
            if self._wire.claim(fault):
                self._drain(head, body)
                self._client.sendall(answer_of(fault.status, fault.body))
                raise _Struck
        elif fault.kind == "ignore_range":
            whole = without_range(head)
            if whole != head and self._wire.claim(fault):
                return whole + end + body
        else:
            self._armed = fault
            self._answered = 0
        return data

    def _drain(self, head: bytes, body: bytes) -> None:
        """Read the rest of a request: a client that is still sending would not see the response."""
        size = announced_body(head)
        have, tail = len(body), body[-5:]
        while tail != b"0\r\n\r\n" if size is None else have < size:
            more = self._client.recv(_BUFFER_BYTES)
            if not more:
                return
            have, tail = have + len(more), (tail + more)[-5:]

    def _answer(self, data: memoryview) -> None:
        self._answering = True
        if not self._wire.is_up_for(len(data)):
            self._break_off()
        fault = self._armed or self._wire.fault
        if fault is not None and (fault is self._armed or not fault.reads_heads):
            if fault.kind == "short":
                self._shorten(fault, bytes(data))
                return
            place = fault.after - self._answered
            if fault.kind == "flip":
                if 0 <= place < len(data) and self._wire.claim(fault):
                    data[place] ^= 0xFF
            elif (
                fault.kind not in ("refuse", "down")
                and place < len(data)
                and self._wire.claim(fault)
            ):
                self._send(data[: max(place, 0)])
                self._strike(fault)
        self._send(data)

    def _send(self, data: memoryview) -> None:
        self._wire.carry("answer", len(data))
        self._client.sendall(data)
        self._answered += len(data)

    def _shorten(self, fault: Fault, data: bytes) -> None:
        self._head += data
        head, end, body = self._head.partition(END_OF_HEAD)
        if not end:
            return
        self._armed = None
        if not self._wire.claim(fault):
            self._send(memoryview(self._head))
            return
        self._send(memoryview(announcing_less(head, fault.after) + end))
        left = fault.after
        while left > 0 and (body := body or self._server.recv(_SMALLEST_CHUNK)):
            self._send(memoryview(body[:left]))
            left -= len(body[:left])
            body = b""
        raise _Struck

    def _break_off(self) -> NoReturn:
        break_off(self._client)
        raise _Struck

    def _strike(self, fault: Fault) -> NoReturn:
        if fault.kind == "reset":
            self._break_off()
        if fault.kind == "stall":
            while self._client.recv(_BUFFER_BYTES):
                pass  # discard what the client still sends
        raise _Struck


def break_off(client: socket.socket) -> None:
    """Close a socket so that its peer sees a connection reset."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
