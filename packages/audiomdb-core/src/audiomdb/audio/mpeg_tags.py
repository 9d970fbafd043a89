"""Tags around MPEG audio, and no part of it: ID3, APE and Lyrics3.

They stand in front of the first frame and behind the last one; where files were joined end to end,
also in between. None has a standard that every program keeps to. A tag whose own sizes do not add
up, or that reaches beyond the file, is therefore not stepped over: what it swallows may be audio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from audiomdb.audio.source import Source

__all__ = ["TAGS", "after_id3v2", "after_tags"]

TAGS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3", b"3DI")
"""How tags begin: ID3v1, APE, Lyrics3, ID3v2, and the footer of an appended ID3v2."""

_ID3V1_BYTES = 128
_ENHANCED_BYTES = 227
"""The extension `TAG+`, which is followed by an ID3v1."""

_APE_BYTES = 32
"""A header or footer; the size that both tell counts the items and the footer."""
_APE_IS_HEADER = 1 << 29


def after_id3v2(source: Source) -> int:
    """The byte behind all ID3v2 tags at the file's start, even beyond its end; 0 without one."""
    start = 0
    while size := _id3v2_bytes(source.at(start, 10)):
        start += size
    return start


def after_tags(octets: bytes, start: int) -> int:
    """The byte behind all tags at `start` that are whole; `start` where there is none."""
    while start < (stop := _after_tag(octets, start)) <= len(octets):
        start = stop
    return start


def _after_tag(octets: bytes, start: int) -> int:
    head = octets[start : start + _APE_BYTES]
    if head[:3] == b"ID3":
        return start + _id3v2_bytes(head)
    if head[:3] == b"TAG":
        behind = start + _ENHANCED_BYTES
        enhanced = head[3:4] == b"+" and octets[behind : behind + 3] == b"TAG"
        return behind if enhanced else start + _ID3V1_BYTES
    if head[:11] == b"LYRICSBEGIN":
        ends = [octets.find(end, start) for end in (b"LYRICS200", b"LYRICSEND")]
        return min((end + 9 for end in ends if end >= 0), default=start)
    return _after_ape(octets, start)


def _id3v2_bytes(head: bytes) -> int:
    """Bytes of the ID3v2 tag whose first ten are in `head`; 0 where these begin none."""
    if len(head) < 10 or head[:3] != b"ID3" or max(head[6:10]) > 0x7F:
        return 0
    size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
    return 10 + size + (10 if head[5] & 0x10 else 0)


def _after_ape(octets: bytes, start: int) -> int:
    """Behind the APE tag at `start`; where it has no header, its footer says where it began."""
    place = octets.find(b"APETAGEX", start)
    if place < 0:
        return start
    size = int.from_bytes(octets[place + 12 : place + 16], "little")
    if place == start and octets[place + 23] & _APE_IS_HEADER >> 24:
        return start + _APE_BYTES + size if size >= _APE_BYTES else start
    return place + _APE_BYTES if place + _APE_BYTES - size == start else start
