"""Check MPEG audio (MP3) for completeness by walking its chain of frames.

An MP3 has no container. Each frame's header gives its length, so the frames form a chain; an
encoder may put a tag in front that announces their number. Decoders resynchronise over a gap, guess
the length if there is no tag, and stop silently at the end of a truncated file. Walking the chain
(about 0.2 us per frame) gives the true count.

Two faults cannot be detected: a file without a tag that was cut exactly between two frames, and
damage inside a frame, which usually carries no checksum.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from audiomdb.audio.mpeg_frames import (
    FrameHeader,
    Tag,
    read_frame_header,
    read_tag,
    silence_before,
    silenced,
)
from audiomdb.audio.mpeg_tags import TAGS, TagSkipper
from audiomdb.audio.structure import Excerpt, Structure

if TYPE_CHECKING:
    from audiomdb.audio.source import Source

__all__ = ["find_first_frame", "inspect_mpeg"]

_SEARCH_BYTES = 4096
"""Maximum distance from the tags to the first frame (mostly zero padding)."""

_DECODER_DELAY = 529
"""Delay of every MP3 decoder in samples (LAME technical FAQ); dropped if the file has a tag."""

_PERIOD = 8
"""Number of frames at whose multiples a chain can be cut without changing the decoded samples.

libmpg123 rounds the last bit by a pattern that repeats after 8 frames (measured)."""

_SILENCED = 48
"""Frames at the start of an excerpt that only feed the bit reservoir.

It reaches back 511 bytes: 47 of the smallest frames."""

_RUN_IN = _SILENCED + 8
"""Frames decoded before a window, a multiple of 8. Overlap and filter reach back 2 frames."""


def find_first_frame(source: Source, start: int, *, within: int = _SEARCH_BYTES) -> int | None:
    """Return the position of the first frame of a chain within `within` bytes of `start`, or None.

    A frame counts if another one of the same stream, or the end of the file, follows it.
    """
    head = source.at(start, within)
    skipped = head.find(b"\xff")
    while 0 <= skipped < len(head) - 3:
        first = read_frame_header(head[skipped : skipped + 3])
        if first is not None:
            position = start + skipped + first.size
            following = read_frame_header(source.at(position, 3))
            if position == source.size or (following is not None and first.fits(following)):
                return start + skipped
        skipped = head.find(b"\xff", skipped + 1)
    return None


def inspect_mpeg(source: Source, start: int) -> Structure:
    """Walk the chain of frames that starts at byte `start`.

    Raises:
        DamagedAudioError: the chain breaks, its last frame is cut off, or the number of frames
            is not the announced one.
    """
    view = source.view()
    head = bytes(view[start : start + 256])
    first = read_frame_header(head[:3])
    assert first is not None
    tag = read_tag(head, first)
    chain = _walk(source, view, start + first.size if tag else start, first, head[:4])
    frames = chain.length * first.samples
    instead = partial(_untagged, chain, start) if chain.joined else None
    if tag is not None and tag.frames == chain.length:
        _check_tail(source, chain, counted=True)
        # libsndfile takes the number of frames from the tag, less the encoder's added silence.
        return Structure("MP3", seekable=False, instead=instead, excerpt=_Excerpts(chain, tag))
    # Encoders that write no LAME extension may count the tag's own frame, or write no count.
    if tag is None or tag.frames is None or (tag.frames == chain.length + 1 and not tag.by_lame):
        _check_tail(source, chain, counted=False)
        if first.layer != 3:
            return Structure("MP3", frames=frames, seekable=False, instead=instead)
        excerpts = _Excerpts(chain, None)
        return Structure(
            "MP3",
            frames=frames,
            seekable=False,
            rebuild=excerpts.whole,
            instead=instead,
            excerpt=excerpts,
        )
    raise source.damaged(
        f"MP3 announces {tag.frames} frames and holds {chain.length}: it was cut off, or edited "
        "without a new header"
    )


class _Chain(msgspec.Struct, frozen=True):
    octets: bytes
    """The file without tags between or after frames; the whole file if there are no such tags."""
    head: bytes
    """First four bytes of the first frame."""
    first: FrameHeader
    anchors: list[int]
    """Position in `octets` of every 8th frame."""
    stop: int
    """Position in `octets` at which the chain ends."""
    length: int
    """Number of frames in the chain."""
    joined: bool
    """Whether there are tags between frames, as in files that were joined end to end."""
    end: int
    """Position in the file after the last frame and the tags that follow it."""
    tagged: bool
    """Whether a tag ends at `end`."""


def _walk(
    source: Source, view: memoryview, start: int, first: FrameHeader, start_bytes: bytes
) -> _Chain:
    octets = bytes(view)
    tags = TagSkipper(octets)
    sizes: dict[bytes, int] = {}
    anchors: list[int] = []
    pieces: list[bytes] = []
    piece_start = skipped = 0
    position, size, count = start, len(octets), 0
    while position < size:
        head = octets[position : position + 3]
        length = sizes.get(head)
        if length is None:
            header = read_frame_header(head)
            if header is None or not first.fits(header):
                behind = tags.after(position)  # tags between joined files, or at the end
                if behind > position:
                    pieces.append(octets[piece_start:position])
                    skipped += behind - position
                    position = piece_start = behind
                    continue
                break
            length = sizes[head] = header.size
        if position + length > size:
            raise source.damaged(
                f"MP3 cut off inside frame {count + 1} at byte {size}; fetch the file again"
            )
        if not count % _PERIOD:
            anchors.append(position - skipped)
        position += length
        count += 1
    tagged = bool(pieces) and piece_start == position
    if pieces:
        pieces.append(octets[piece_start:position])
        octets = b"".join(pieces)
    return _Chain(
        octets=octets,
        head=start_bytes,
        first=first,
        anchors=anchors,
        stop=position - skipped,
        length=count,
        joined=len(pieces) > (2 if tagged else 1),
        end=position,
        tagged=tagged,
    )


def _check_tail(source: Source, chain: _Chain, *, counted: bool) -> None:
    """Refuse bytes after the chain that are not a tag, unless a count shows that it is complete.

    Further frames are refused in any case: they may be a second file that was appended.
    """
    tail = bytes(source.view()[chain.end : chain.end + 16])
    if not tail:
        return
    if chain.tagged or tail.startswith(TAGS):  # a tag that was not skipped: its sizes are wrong
        more = find_first_frame(source, chain.end, within=source.size)
    elif counted:
        more = find_first_frame(source, chain.end)
    else:
        more = chain.end
    if more is not None:
        raise source.damaged(
            f"MP3 whose chain of frames breaks at byte {chain.end} of {source.size}, after "
            f"{chain.length} frames: bytes are missing or overwritten, or another file was "
            "appended"
        )


def _untagged(chain: _Chain, start: int) -> Excerpt:
    """Return the file from its first frame on, without the tags between frames.

    libmpg123 skips some of these tags and resynchronises after others, which loses a frame.
    """
    return Excerpt(chain.octets[start : chain.stop], 0)


class _Excerpts:
    """Cuts shorter MP3s out of a chain of frames that libsndfile decodes to the same samples.

    libmpg123's own seek starts with an empty bit reservoir: it skips frames, prints warnings to
    stderr, and is wrong by up to 0.5 in the first frames of a compressible signal. A shorter MP3
    that starts with silence avoids that.

    Without a tag, libsndfile guesses the length from the bit rate of the first frames and stops
    there, even if the guess is too low (a variable bit rate that starts loud: it returned 85104 of
    321408 frames). For that case, `whole` puts a tag before the complete chain.
    """

    def __init__(self, chain: _Chain, tag: Tag | None) -> None:
        self._chain = chain
        self._tag = tag

    def whole(self) -> Excerpt:
        """Return the complete chain with a tag in front."""
        chain = self._chain
        start = chain.anchors[0] if chain.anchors else chain.stop
        return self._behind_tag(chain.octets[start : chain.stop], chain.length, 0)

    def __call__(self, start: int, stop: int, frames: int) -> Excerpt | None:
        """Cut out audio frames `[start, stop)` of a clip that decodes to `frames` in total.

        None if the run-in would reach the start, if a frame of the run-in has a checksum, or if it
        is unclear how many samples the decoder drops at the start.
        """
        chain, samples = self._chain, self._chain.first.samples
        dropped = 0
        if self._tag is not None:
            if frames != chain.length * samples - self._tag.delay - self._tag.padding:
                return None
            dropped = self._tag.delay + _DECODER_DELAY
        first = ((start + dropped) // samples - _RUN_IN) // _PERIOD
        run_in = self._run_in(first) if first > 0 else None
        if run_in is None:
            return None
        position = chain.anchors[first] + len(run_in)
        # One frame more than needed, because the decoder's delay is less than a frame.
        last = ((stop + dropped) // samples + 2 + _PERIOD - 1) // _PERIOD
        end, end_frame = chain.stop, chain.length
        if last < len(chain.anchors):
            end, end_frame = chain.anchors[last], last * _PERIOD
        return self._behind_tag(
            run_in + chain.octets[position:end],
            end_frame - first * _PERIOD,
            first * _PERIOD * samples - dropped,
        )

    def _run_in(self, anchor: int) -> bytes | None:
        """Return the silenced frames from an anchor on; None if one of them has a checksum."""
        octets, position = self._chain.octets, self._chain.anchors[anchor]
        frames = []
        for _ in range(_SILENCED):
            header = read_frame_header(octets[position : position + 3])
            if header is None or header.checksum:
                return None  # the checksum would no longer match
            frames.append(silenced(octets[position : position + header.size], header))
            position += header.size
        return b"".join(frames)

    def _behind_tag(self, octets: bytes, count: int, first: int) -> Excerpt:
        chain = self._chain
        # After a tag, libmpg123 drops the samples of its own delay, here from the silence.
        front = silence_before(chain.head, chain.first, _PERIOD, count)
        return Excerpt(front + octets, first + _DECODER_DELAY - _PERIOD * chain.first.samples)
