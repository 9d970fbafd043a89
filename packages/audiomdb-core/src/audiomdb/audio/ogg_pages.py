"""Read and write the pages of an Ogg stream, whose layout is RFC 3533, section 6."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CONTINUED", "FIRST", "LAST", "Page", "checksum", "fails", "made", "pages"]

_HEADER = struct.Struct("<4sBBqIIIB")
_CHECKSUM = slice(22, 26)
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

CONTINUED, FIRST, LAST = 1, 2, 4
"""Flags of a page: it begins inside a packet, it is the first, it is the last of its stream."""


class Page(msgspec.Struct, frozen=True):
    """The header of a page, and where the page lies."""

    start: int
    stop: int
    flags: int
    granule: int
    """Position in the stream after the last packet that ends in the page; -1 if none does."""
    serial: int
    sequence: int
    table: int
    """Position at which the lengths of the segments start, each a byte."""
    body: int
    """Position at which the packets of the page start."""


def checksum(page: bytes | bytearray) -> int:
    """Return the CRC-32 of an Ogg page whose checksum field is zero.

    The polynomial is 0x04C11DB7, most significant bit first, with initial value 0 and no final
    complement. zlib computes this on bit-reversed bytes, once its complements are undone and the
    bits of the result are reversed.
    """
    value = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(value.to_bytes(4, "little").translate(_REVERSED), "big")


def pages(view: memoryview) -> Iterator[Page | str]:
    """Yield every page in order, and last a str with the reason if the bytes do not end there."""
    position, size = 0, len(view)
    while position < size:
        if size - position < _HEADER.size:
            yield f"the last page is cut off at byte {size}"
            return
        capture, version, flags, granule, serial, sequence, _, segments = _HEADER.unpack_from(
            view, position
        )
        if capture != b"OggS" or version != 0:
            yield f"no page where one must start, at byte {position}"
            return
        table = position + _HEADER.size
        body = table + segments
        stop = body + sum(view[table:body])
        if stop > size:
            yield f"the last page is cut off at byte {size}"
            return
        yield Page(position, stop, flags, granule, serial, sequence, table, body)
        position = stop


def fails(page: bytes | memoryview) -> bool:
    """Whether the checksum of a page shows that it is damaged."""
    octets = bytearray(page)
    announced = int.from_bytes(octets[_CHECKSUM], "little")
    octets[_CHECKSUM] = bytes(4)
    return checksum(octets) != announced


def made(
    flags: int,
    granule: int,
    serial: int,
    sequence: int,
    table: bytes | memoryview,
    body: bytes | memoryview,
) -> bytes:
    """Return a page.

    Args:
        flags: Sum of `CONTINUED`, `FIRST` and `LAST`.
        granule: Position in the stream after the last packet that ends in the page, or -1.
        serial: Number of the stream.
        sequence: Number of the page in the stream.
        table: Lengths of up to 255 segments; a packet ends with the first one below 255.
        body: The segments.
    """
    head = _HEADER.pack(b"OggS", 0, flags, granule, serial, sequence, 0, len(table))
    page = bytearray(b"".join((head, table, body)))
    page[_CHECKSUM] = checksum(page).to_bytes(4, "little")
    return bytes(page)
