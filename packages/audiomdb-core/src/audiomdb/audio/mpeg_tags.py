"""Skip the ID3, APE and Lyrics3 tags around MPEG audio.

Tags are found before the first frame and after the last one, and also in between if files were
joined end to end. None has a standard that every program follows. A tag with inconsistent sizes, or
one that extends past the end of the file, is therefore not skipped: it may contain audio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from audiomdb.audio.source import Source

__all__ = ["TAGS", "TagSkipper", "after_id3v2"]

TAGS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3", b"3DI")
"""Markers at the start of tags: ID3v1, APE, Lyrics3, ID3v2, the footer of an appended ID3v2."""

_ID3V1_BYTES = 128
_ENHANCED_BYTES = 227
"""Size of the extension `TAG+`, which is followed by an ID3v1."""

_APE_BYTES = 32
"""Size of a header or footer; the size stored in both counts the items and the footer."""
_APE_IS_HEADER = 1 << 29


def after_id3v2(source: Source) -> int:
    """Return the end of all ID3v2 tags at the start of the file; 0 without one.

    The position may be past the end of the file.
    """
    start = 0
    while size := _id3v2_bytes(source.at(start, 10)):
        start += size
    return start


class TagSkipper:
    """Finds the ends of tags, for positions that only grow.

    The next place of each marker is remembered. To search the rest of the file for it behind every
    tag would take time that grows with the square of the size.
    """

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._next: dict[bytes, int] = {}

    def after(self, start: int) -> int:
        """Return the end of all whole tags from `start` on; `start` if there is none."""
        while start < (stop := self._after_tag(start)) <= len(self._octets):
            start = stop
        return start

    def _after_tag(self, start: int) -> int:
        octets = self._octets
        head = octets[start : start + _APE_BYTES]
        if head[:3] == b"ID3":
            return start + _id3v2_bytes(head)
        if head[:3] == b"TAG":
            behind = start + _ENHANCED_BYTES
            enhanced = head[3:4] == b"+" and octets[behind : behind + 3] == b"TAG"
            return behind if enhanced else start + _ID3V1_BYTES
        if head[:11] == b"LYRICSBEGIN":
            ends = [self._find(end, start) for end in (b"LYRICS200", b"LYRICSEND")]
            return min((end + 9 for end in ends if end >= 0), default=start)
        return self._after_ape(start)

    def _after_ape(self, start: int) -> int:
        """Return the end of the APE tag at `start`, or `start` if there is none.

        For a tag without a header, the size in its footer must lead back to `start`.
        """
        octets = self._octets
        place = self._find(b"APETAGEX", start)
        if place < 0 or place + _APE_BYTES > len(octets):
            return start
        size = int.from_bytes(octets[place + 12 : place + 16], "little")
        if place == start and octets[place + 23] & _APE_IS_HEADER >> 24:
            return start + _APE_BYTES + size if size >= _APE_BYTES else start
        return place + _APE_BYTES if place + _APE_BYTES - size == start else start

    def _find(self, marker: bytes, start: int) -> int:
        """Return the first place of a marker from `start` on; -1 if there is none."""
        place = self._next.get(marker)
        if place is None or 0 <= place < start:
            place = self._next[marker] = self._octets.find(marker, start)
        return place


def _id3v2_bytes(head: bytes) -> int:
    """Return the size of the ID3v2 tag that starts with the ten bytes `head`; 0 if none does."""
    if len(head) < 10 or head[:3] != b"ID3" or max(head[6:10]) > 0x7F:
        return 0
    size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
    return 10 + size + (10 if head[5] & 0x10 else 0)
