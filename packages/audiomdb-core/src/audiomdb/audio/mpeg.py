"""MPEG audio (MP3): walking the frames to know what a decoder must deliver.

An MP3 has no container. Each frame's header gives its length, so the frames form a chain; an
encoder may put a tag in front that says how many there are. Decoders resynchronise over a hole,
guess the length where there is no tag, and stop quietly at the end of a truncated file. Walking
the chain (about 0.2 us a frame) gives the true count.

What cannot be seen: a file without a tag that was cut exactly between two frames, and damage
inside a frame, which carries no checksum as a rule.
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
from audiomdb.audio.mpeg_tags import TAGS, after_tags
from audiomdb.audio.structure import Excerpt, Structure

if TYPE_CHECKING:
    from audiomdb.audio.source import Source

__all__ = ["find_first_frame", "inspect_mpeg"]

_SEARCH_BYTES = 4096
"""How far after the tags the first frame may start (zero padding, mostly)."""

_DECODER_DELAY = 529
"""Samples by which every MP3 decoder is late (LAME technical FAQ); dropped where there is a tag."""

_PERIOD = 8
"""libmpg123 rounds the last bit by a pattern that repeats after 8 frames (measured), so chains
that are cut at multiples of 8 decode to the very same samples."""

_SILENCED = 48
"""Frames at the start of an excerpt that only feed the bit reservoir, which reaches back 511 bytes:
47 of the smallest frames."""

_RUN_IN = _SILENCED + 8
"""Frames before what was asked for. Overlap and filter reach back 2 frames; a multiple of 8."""


def find_first_frame(source: Source, start: int, *, within: int = _SEARCH_BYTES) -> int | None:
    """Where a chain of frames begins within a few kB of `start`, or None."""
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
    """Walk the chain of frames whose first starts at byte `start`.

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
        # libsndfile takes the tag's word, less the silence that the encoder added.
        return Structure("MP3", seekable=False, instead=instead, excerpt=_Excerpts(chain, tag))
    # Encoders that write no LAME extension may count the tag's own frame, or nothing at all.
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
    """The file up to the last frame, without the tags between frames."""
    head: bytes
    """The first four bytes of a frame."""
    first: FrameHeader
    anchors: list[int]
    """The byte of `octets` at which every 8th frame starts."""
    stop: int
    """The byte of `octets` at which the chain ends."""
    length: int
    """Frames in the chain."""
    joined: bool
    """Whether there were tags between frames: files that were joined end to end."""
    end: int
    """The byte of the file at which neither a frame nor a tag follows."""
    tagged: bool
    """Whether a tag ends there."""


def _walk(
    source: Source, view: memoryview, start: int, first: FrameHeader, start_bytes: bytes
) -> _Chain:
    octets = bytes(view)
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
                behind = after_tags(octets, position)  # between joined files, or at the end
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
    """Refuse bytes behind the chain that are no tag, where no count says it is complete.

    And frames in any case: whoever joined two files meant to keep both.
    """
    tail = bytes(source.view()[chain.end : chain.end + 16])
    if not tail:
        return
    if chain.tagged or tail.startswith(TAGS):  # that is one whose sizes do not add up
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
    """The file from its first frame on, without the tags in between.

    libmpg123 knows some of these tags and resynchronises over others, at the price of a frame.
    """
    return Excerpt(chain.octets[start : chain.stop], 0)


class _Excerpts:
    """Cuts chains out of a chain so that libsndfile decodes them to the same samples.

    libmpg123's own seek starts with an empty bit reservoir: it skips frames, complains on stderr,
    and is wrong by up to 0.5 in the first frames of a compressible signal. A shorter MP3 that
    starts with silence has none of that.

    Without a tag libsndfile guesses the length from the bit rate of the first frames and stops
    there, even where the guess is too low (a variable bit rate that starts loud: 85104 of 321408
    frames came back). So the whole chain can be had behind a tag of our own too.
    """

    def __init__(self, chain: _Chain, tag: Tag | None) -> None:
        self._chain = chain
        self._tag = tag

    def whole(self) -> Excerpt:
        """Everything, behind a tag."""
        chain = self._chain
        start = chain.anchors[0] if chain.anchors else chain.stop
        return self._behind_tag(chain.octets[start : chain.stop], chain.length, 0)

    def __call__(self, start: int, stop: int, frames: int) -> Excerpt | None:
        """The frames `[start, stop)` of a clip that libsndfile decodes to `frames` in all.

        None where the run-in would reach the start, or where it is unclear how many samples the
        decoder drops there.
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
        # One frame more than needed: the decoder is late by less than that.
        last = ((stop + dropped) // samples + 2 + _PERIOD - 1) // _PERIOD
        end, end_frame = chain.stop, chain.length
        if last < len(chain.anchors):
            end, end_frame = chain.anchors[last], last * _PERIOD
        return self._behind_tag(
            run_in + chain.octets[position:end],
            end_frame - first * _PERIOD,
            start + dropped - first * _PERIOD * samples,
        )

    def _run_in(self, anchor: int) -> bytes | None:
        """The frames from an anchor on that are decoded as silence."""
        octets, position = self._chain.octets, self._chain.anchors[anchor]
        frames = []
        for _ in range(_SILENCED):
            header = read_frame_header(octets[position : position + 3])
            if header is None or header.checksum:
                return None  # a checksum that would no longer fit
            frames.append(silenced(octets[position : position + header.size], header))
            position += header.size
        return b"".join(frames)

    def _behind_tag(self, octets: bytes, count: int, lead: int) -> Excerpt:
        chain = self._chain
        # With a tag libmpg123 drops the samples of its own delay, here from the silence.
        front = silence_before(chain.head, chain.first, _PERIOD, count)
        return Excerpt(front + octets, lead + _PERIOD * chain.first.samples - _DECODER_DELAY)
