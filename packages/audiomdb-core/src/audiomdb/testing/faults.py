"""The faults that the proxy can simulate, and the parts of HTTP needed to apply them.

Pure functions of bytes; `connection` applies them.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Literal, TypeAlias, get_args

import msgspec

__all__ = [
    "END_OF_HEAD",
    "Fault",
    "FaultKind",
    "announced_body",
    "announcing_less",
    "answer_of",
    "is_request",
    "without_range",
]

FaultKind: TypeAlias = Literal[
    "close", "reset", "stall", "refuse", "down", "flip", "status", "short", "ignore_range"
]

END_OF_HEAD = b"\r\n\r\n"

_REQUEST = re.compile(rb"[A-Z]{3,} \S+ HTTP/1\.[01]\r\n")
_LENGTH = re.compile(rb"(?i)(\r\ncontent-length:[ \t]*)(\d+)")
_RANGE = re.compile(rb"(?i)\r\n(?:range|if-range|if-match):[^\r]*")
_CHUNKED = re.compile(rb"(?i)\r\ntransfer-encoding:[^\r]*chunked")
_WAITS = re.compile(rb"(?i)\r\nexpect:[ \t]*100-continue")


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One way for a network or a server to fail.

    Attributes:
        kind: With any protocol, once `after` bytes of responses have passed on a connection:
            "close" ends the connection as if all had been sent, "reset" resets it, "stall" keeps
            it open and forwards nothing more. "refuse" ends every new connection without a byte.
            "down" resets all connections, and every new one, once `after` bytes have passed in
            both directions since the fault was set. "flip" inverts the byte at offset `after` and
            forwards everything.
            With HTTP: "status" responds in the server's place with `status` and `body`; "short"
            announces and delivers no more than `after` bytes of a body, as if that were all;
            "ignore_range" hides from the server that a range was requested.
        after: Number of response bytes, heads included (for "short", of the body alone). Counted
            from the start of the connection, or with `match` from the request that matched.
            "refuse" and "down" ignore `match`.
        times: How often the fault strikes; None: always.
        match: Strike only requests whose head contains this text (a path, say). None: all.
        status: Status code of a "status" response.
        body: Body of a "status" response.
    """

    kind: FaultKind
    after: int = 0
    times: int | None = None
    match: str | None = None
    status: int = 503
    body: bytes = b""

    def __post_init__(self) -> None:
        if self.kind not in get_args(FaultKind):
            kinds = ", ".join(get_args(FaultKind))
            raise ValueError(f"kind is {self.kind!r}, expected one of {kinds}")
        if self.after < 0:
            raise ValueError(f"after is {self.after}, expected bytes, 0 or more")
        if self.times is not None and self.times < 1:
            raise ValueError(f"times is {self.times}, expected 1 or more, or None for always")

    @property
    def reads_heads(self) -> bool:
        """Whether the proxy has to parse request heads to apply this fault."""
        return self.match is not None or self.kind in ("status", "short", "ignore_range")

    def concerns(self, head: bytes) -> bool:
        """Return whether a request with this head matches."""
        return self.match is None or self.match.encode() in head


def is_request(data: bytes) -> bool:
    """Return whether the data begins with an HTTP/1 request."""
    return _REQUEST.match(data) is not None


def announced_body(head: bytes) -> int | None:
    """Return the body size that a request's head announces, or None for a chunked body.

    0 where the client waits for `100 Continue` before it sends the body.
    """
    if _WAITS.search(head):
        return 0
    if _CHUNKED.search(head):
        return None
    found = _LENGTH.search(head)
    return int(found[2]) if found else 0


def without_range(head: bytes) -> bytes:
    """Return a request's head without its range and its preconditions on the file's version."""
    return _RANGE.sub(b"", head)


def announcing_less(head: bytes, most: int) -> bytes:
    """Return a response's head that announces at most `most` bytes of body, then a close."""
    shorter = _LENGTH.sub(lambda found: found[1] + b"%d" % min(int(found[2]), most), head)
    first, _, rest = shorter.partition(b"\r\n")
    return first + b"\r\nConnection: close\r\n" + rest


def answer_of(status: int, body: bytes) -> bytes:
    """Return a complete response, after which the connection ends."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    head = (
        f"HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
