"""Which bytes of a file are there, when it comes in several pieces at once: pure functions.

A file of some size is covered by spans, one after the other, and each is there up to some byte.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import msgspec

__all__ = ["DONE_BYTES", "Span", "cut", "done_at", "missing", "packed", "piece_bytes", "unpacked"]

_HEAD = struct.Struct("<8sQQ")
_ROW = struct.Struct("<QQQ")
_MAGIC = b"AMDBSPN1"

DONE_BYTES = 8
"""Size of the number that changes while a span comes."""

_PIECES_EACH = 2
"""Pieces for each stream, so that they end together though they are not equally fast."""

_LARGEST_PIECE = 16 << 20


class Span(msgspec.Struct):
    """Bytes `start` to `stop` of a file, of which those before `done` are there."""

    start: int
    stop: int
    done: int


def missing(spans: Iterable[Span]) -> list[tuple[int, int]]:
    """What is not there: half open ranges in order, none of which touches another."""
    found: list[tuple[int, int]] = []
    for span in spans:
        if span.done == span.stop:
            continue
        if found and found[-1][1] == span.done:
            found[-1] = (found[-1][0], span.stop)
        else:
            found.append((span.done, span.stop))
    return found


def cut(spans: Sequence[Span], piece: int | None) -> list[Span]:
    """Cover the same file anew: what is there in whole spans, what is missing in pieces.

    Args:
        spans: That cover the file.
        piece: Bytes of a piece at most; None leaves each gap whole.
    """
    size = spans[-1].stop if spans else 0
    result: list[Span] = []
    at = 0
    for start, stop in missing(spans):
        if start > at:
            result.append(Span(at, start, start))
        step = piece or stop - start
        result += [Span(low, min(low + step, stop), low) for low in range(start, stop, step)]
        at = stop
    if at < size:
        result.append(Span(at, size, size))
    return result


def piece_bytes(lacking: int, streams: int, least: int) -> int:
    """Bytes of a piece when so many streams fetch `lacking` bytes together."""
    even = -(-lacking // (streams * _PIECES_EACH))
    return max(least, min(even, _LARGEST_PIECE))


def packed(spans: Sequence[Span]) -> bytes:
    """The spans as bytes, in which each one's `done` is at `done_at`."""
    size = spans[-1].stop if spans else 0
    rows = (_ROW.pack(span.start, span.stop, span.done) for span in spans)
    return _HEAD.pack(_MAGIC, size, len(spans)) + b"".join(rows)


def done_at(place: int) -> int:
    """Where in the packed form the `done` of span number `place` stands."""
    return _HEAD.size + place * _ROW.size + 2 * DONE_BYTES


def unpacked(content: bytes, size: int) -> list[Span] | None:
    """The spans of a file of some size; None when the bytes are no such thing."""
    if len(content) < _HEAD.size:
        return None
    magic, of_size, count = _HEAD.unpack_from(content)
    if (magic, of_size) != (_MAGIC, size) or len(content) != _HEAD.size + count * _ROW.size:
        return None
    spans = [Span(*row) for row in _ROW.iter_unpack(content[_HEAD.size :])]
    at = 0
    for span in spans:
        if span.start != at or not span.start <= span.done <= span.stop:
            return None
        at = span.stop
    return spans if at == size else None
