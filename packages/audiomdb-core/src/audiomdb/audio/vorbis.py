"""Cut shorter Ogg Vorbis streams out of one, so that a window is decoded without what precedes it.

A packet of Vorbis is a block of samples, of one of two sizes. The decoder keeps nothing between
packets but the second half of the last block, to which it adds the first half of the next
(Vorbis I specification, section 4.3.8). So a stream that begins with any packet decodes to the same
samples as the whole, except that this packet alone completes none.

The sizes of all blocks before it tell where in the clip such a stream starts: two successive ones
complete a quarter of each. So does the granule position of a page (section A.2). A stream in which
the two disagree anywhere but at its end was edited, or made in an unusual way, and is not cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from audiomdb.audio.ogg_pages import CONTINUED, LAST, Page, made
from audiomdb.audio.structure import Excerpt
from audiomdb.lazy import cached_property

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Excerpts"]

_HEADERS = 3
"""Packets before the audio: identification, comments, setup."""

_BLOCK_SIZES = 28
"""Position of the two block sizes in the identification, as powers of 2 of four bits each."""


class _Layout(msgspec.Struct, frozen=True):
    """Where the packets of a stream are. Segments are counted through all pages."""

    segments: np.ndarray
    """The first segment of each page, and the number of all segments."""
    complete: np.ndarray
    """Frames that are complete after each page; -1 if no packet of audio ends in it."""
    audio: int
    """Number of the first page with audio."""
    pages: np.ndarray
    """Numbers of the pages in which a packet of audio ends."""
    starts: np.ndarray
    """First segment of the last packet that ends in each of these pages."""
    stops: np.ndarray
    """The segment after it."""


class Excerpts:
    """Cuts shorter streams out of an undamaged Vorbis stream. Not thread-safe.

    Args:
        view: The file.
        pages: All pages of the stream.
    """

    def __init__(self, view: memoryview, pages: Sequence[Page]) -> None:
        self._view = view
        self._pages = pages

    @cached_property
    def _layout(self) -> _Layout | None:
        """Where the packets are; looked for only when a window is cut."""
        return _find_packets(self._view, self._pages)

    def __call__(self, start: int, stop: int, frames: int) -> Excerpt | None:  # noqa: ARG002
        """Return a stream with frames `[start, stop)` of the clip, and a few more on both sides.

        None if the window starts in the first page or ends after the last one, or if it is unclear
        where in the clip the pages are.
        """
        layout = self._layout
        if layout is None:
            return None
        complete = layout.complete[layout.pages]
        first = int(np.searchsorted(complete, start, "right")) - 1
        last = int(np.searchsorted(complete, stop))
        if first < 0 or last == len(complete):
            return None
        headers = self._view[: self._pages[layout.audio].start]
        pages = self._between(layout, first, last)
        return Excerpt(b"".join((headers, *pages)), int(complete[first]))

    def _between(self, layout: _Layout, first: int, last: int) -> Iterator[bytes]:
        """Yield pages with the packets from one that ends a page to another that does."""
        start, stop = layout.starts[first], layout.stops[last]
        before = layout.complete[layout.pages[first]]
        end = int(layout.pages[last])
        sequence = self._pages[layout.audio].sequence
        for number in range(_page_of(layout.segments, start), end + 1):
            page, here = self._pages[number], layout.segments[number]
            skipped = max(0, int(start - here))
            head = self._view[page.table : page.table + skipped]
            table = self._view[page.table + skipped : min(page.body, page.table + int(stop - here))]
            position = page.body + sum(head)
            flags = 0 if skipped else page.flags & CONTINUED
            yield made(
                flags | LAST if number == end else flags,
                max(-1, int(layout.complete[number] - before)),
                page.serial,
                sequence,
                table,
                self._view[position : position + sum(table)],
            )
            sequence += 1


def _find_packets(view: memoryview, pages: Sequence[Page]) -> _Layout | None:
    """Find all packets of a stream; None if it is unclear where in the clip some are."""
    lengths = np.frombuffer(b"".join(view[page.table : page.body] for page in pages), np.uint8)
    counts = [page.body - page.table for page in pages]
    segments = np.append(0, np.cumsum(counts))
    flags = np.array([page.flags for page in pages])
    ends = np.flatnonzero(lengths < 255)
    starts = np.append(0, ends[:-1] + 1)[_HEADERS:]
    if (
        len(starts) == 0
        or ends[_HEADERS - 1] + 1 not in segments  # audio starts inside a page
        or not lengths[starts].all()  # an empty packet, which decoders skip
        or (flags[:-1] & LAST).any()
        or ((flags & CONTINUED > 0) != (np.append(0, lengths)[segments[:-1]] == 255)).any()
    ):
        return None
    ends = ends[_HEADERS:]
    bodies = np.array([page.stop - page.body for page in pages])
    shifts = np.array([page.body for page in pages]) - (np.cumsum(bodies) - bodies)
    places = np.cumsum(lengths, dtype=np.int64) - lengths + np.repeat(shifts, counts)
    heads = np.frombuffer(view, np.uint8)[places[starts]]
    if (heads & 1).any():  # not audio, which decoders skip
        return None
    frames = _complete_frames(heads, view[pages[0].body + _BLOCK_SIZES])
    page_of = np.searchsorted(segments, ends, "right") - 1
    closing = np.flatnonzero(np.diff(page_of, append=-1))  # the last packet to end in its page
    complete = np.full(len(pages), -1)
    complete[page_of[closing]] = frames[closing]
    granules = np.array([page.granule for page in pages])
    ahead = (granules - complete)[page_of[closing]]
    # A clip may start later than at 0, and end before its last block does. Decoders may leave out
    # what is before 0.
    if ahead[0] < 0 or (ahead[:-1] != ahead[0]).any():
        return None
    return _Layout(
        segments=segments,
        complete=complete,
        audio=_page_of(segments, starts[0]),
        pages=page_of[closing],
        starts=starts[closing],
        stops=ends[closing] + 1,
    )


def _complete_frames(heads: np.ndarray, exponents: int) -> np.ndarray:
    """Return the frames that are complete after each packet of audio, given its first byte.

    Bit 1 is taken for the size of the block. So it is if the setup has two modes, the first of them
    for short blocks, as libvorbis and FFmpeg write it; if there is only one size, it does not
    matter. For any other setup, granule positions do not fit the result.
    """
    sizes = np.array([1 << (exponents & 15), 1 << (exponents >> 4)])
    blocks = sizes[heads >> 1 & 1]
    return np.append(0, np.cumsum(blocks[:-1] + blocks[1:]) // 4)


def _page_of(segments: np.ndarray, segment: int) -> int:
    return int(np.searchsorted(segments, segment, "right")) - 1
