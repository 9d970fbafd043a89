"""What can go wrong on a network, as values, and the little HTTP that takes.

Pure functions of bytes; `proxy` does what they say.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Literal, TypeAlias

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
        kind: On any protocol, once `after` bytes of answers have passed on a connection:
            "close" ends the connection as if all had been sent, "reset" breaks it, "stall" keeps
            it open and passes nothing more. "refuse" ends every new connection without a byte.
            "down" breaks all connections, and every new one, once `after` bytes have passed in
            both directions since it was set. "flip" inverts the byte at place `after` and passes
            everything on.
            On HTTP: "status" answers in the server's place with `status` and `body`; "short"
            announces and delivers no more than `after` bytes of a body, as if that were all;
            "ignore_range" hides from the server that a part was asked for.
        after: Bytes of answers, heads included (for "short", of the body alone). Counted from the
            connection's start, or with `match` from the request it was found in. A `match` means
            nothing to "refuse" and "down".
        times: How often it strikes; None: always.
        match: Only requests that hold this text in their head (a path, say). None: all.
        status: Of a "status" answer.
        body: Of a "status" answer.
    """

    kind: FaultKind
    after: int = 0
    times: int | None = None
    match: str | None = None
    status: int = 503
    body: bytes = b""

    def __post_init__(self) -> None:
        if self.after < 0:
            raise ValueError(f"after is {self.after}, expected bytes, 0 or more")
        if self.times is not None and self.times < 1:
            raise ValueError(f"times is {self.times}, expected 1 or more, or None for always")

    @property
    def reads_heads(self) -> bool:
        """Whether it has to be known what a request says."""
        return self.match is not None or self.kind in ("status", "short", "ignore_range")

    def concerns(self, head: bytes) -> bool:
        """Whether a request is one of those that fail."""
        return self.match is None or self.match.encode() in head


def is_request(data: bytes) -> bool:
    """Whether an HTTP/1 request begins here."""
    return _REQUEST.match(data) is not None


def announced_body(head: bytes) -> int | None:
    """Bytes that follow a request's head; None: chunks, until an empty one.

    0 where the client waits to be asked for them.
    """
    if _WAITS.search(head):
        return 0
    if _CHUNKED.search(head):
        return None
    found = _LENGTH.search(head)
    return int(found[2]) if found else 0


def without_range(head: bytes) -> bytes:
    """A request's head that asks for all of a file, whatever version it is."""
    return _RANGE.sub(b"", head)


def announcing_less(head: bytes, most: int) -> bytes:
    """An answer's head that announces at most so many bytes of body, and the connection's end."""
    shorter = _LENGTH.sub(lambda found: found[1] + b"%d" % min(int(found[2]), most), head)
    first, _, rest = shorter.partition(b"\r\n")
    return first + b"\r\nConnection: close\r\n" + rest


def answer_of(status: int, body: bytes) -> bytes:
    """A whole answer, after which the connection ends."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    head = (
        f"HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
