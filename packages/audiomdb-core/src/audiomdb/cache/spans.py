"""Track which bytes of a file have arrived when it is fetched in pieces, as pure functions.

A file is covered by consecutive spans, each of which has arrived up to some byte.
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
"""Size of the packed `done` of a span, which is updated while the span is fetched."""

_PIECES_EACH = 2
"""Pieces per stream; several, so that streams of unequal speed end at about the same time."""

_LARGEST_PIECE = 16 << 20

_MOST_PIECES = 1 << 16
"""Limits the memory for pieces, since metadata may claim any size."""


class Span(msgspec.Struct):
    """Bytes `start` to `stop` of a file, of which those before `done` have arrived."""

    start: int
    stop: int
    done: int


def missing(spans: Iterable[Span]) -> list[tuple[int, int]]:
    """Return the missing bytes as half-open ranges in order, adjacent ones merged."""
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
    """Cover the same file with new spans: whole ones for arrived bytes, pieces for missing ones.

    Args:
        spans: Spans that cover the file.
        piece: Maximum size of a piece in bytes. None: one piece for each gap.
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
    """Return the size of a piece in bytes if `streams` streams fetch `lacking` bytes together."""
    even = -(-lacking // (streams * _PIECES_EACH))
    return max(least, min(even, _LARGEST_PIECE), -(-lacking // _MOST_PIECES))


def packed(spans: Sequence[Span]) -> bytes:
    """Pack spans into bytes; the `done` of each is at the offset `done_at`."""
    size = spans[-1].stop if spans else 0
    rows = (_ROW.pack(span.start, span.stop, span.done) for span in spans)
    return _HEAD.pack(_MAGIC, size, len(spans)) + b"".join(rows)


def done_at(place: int) -> int:
    """Return the offset of the `done` of span number `place` in the packed form."""
    return _HEAD.size + place * _ROW.size + 2 * DONE_BYTES


def unpacked(content: bytes, size: int) -> list[Span] | None:
    """Unpack the spans of a file of `size` bytes; return None when the content is not valid."""
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
