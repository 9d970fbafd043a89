"""Check FLAC files for completeness by their headers, last frame and MD5 digest.

The layout follows RFC 9639, section 8: the marker `fLaC`, then metadata blocks of which the first
is STREAMINFO (34 bytes), then frames, each ending in a CRC-16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from audiomdb.audio.flac_excerpts import SMALLEST_SEARCHED, FlacExcerpts
from audiomdb.audio.flac_frames import (
    LONGEST_FRAME_HEADER,
    FrameHeader,
    coded_rate,
    find_last,
    read_frame_header,
)
from audiomdb.audio.structure import Excerpt, Structure

if TYPE_CHECKING:
    from collections.abc import Callable

    from audiomdb.audio.source import Source

__all__ = ["SUBTYPES", "StreamDigest", "StreamInfo", "first_coded_rate", "inspect_flac"]

SUBTYPES = {8: "PCM_S8", 16: "PCM_16", 24: "PCM_24"}
"""libsndfile's name of the subtype for each bit depth that it decodes."""

_HEADER_BYTES = 42
"""Size of the marker, the first block header and STREAMINFO."""

_MARKER = b"fLaC"
_BEGINNINGS = (_MARKER + b"\x00\x00\x00\x22", _MARKER + b"\x80\x00\x00\x22")
"""Marker and header of the first block, STREAMINFO, without and with the last-block flag."""

_SMALLEST_FRAME_BYTES = 10
"""A frame header of 6 bytes, one constant subframe of 2 and a CRC-16 of 2."""

_TAIL_BYTES = 512
"""Bytes after the last frame that the first search allows for: an ID3v1 tag, some padding."""

_NO_SAMPLES = (bytes(16), bytes.fromhex("d41d8cd98f00b204e9800998ecf8427e"))
"""Digests that fit a stream of 0 frames: unknown, and the MD5 of no bytes."""


class StreamInfo(msgspec.Struct, frozen=True):
    """The fields of STREAMINFO that are used here."""

    sample_rate: int
    channels: int
    bits_per_sample: int

    frames: int
    """Announced number of frames; 0 means unknown (or none)."""

    md5: bytes
    """MD5 of the samples; 16 zero bytes mean unknown."""


def inspect_flac(source: Source, start: int = 0, *, known_frames: int | None = None) -> Structure:
    """Read the header of the stream at byte `start`, and compare a frame with it.

    The frame is the last one, which proves the announced length. If the header announces
    `known_frames`, no proof is needed, and the first frame is compared, which takes no search.

    Raises:
        UnreadableAudioError: the rate is 0, or libsndfile does not decode the bit depth.
        DamagedAudioError: the file ends inside the header, announces more frames than its bytes
            can hold, or contradicts itself.
    """
    head = _head(source, start)
    info = _read_stream_info(head)
    if info.sample_rate == 0:  # RFC 9639 allows that for data that is not audio
        raise source.unreadable("FLAC of data that is not audio: its header says 0 Hz")
    if info.bits_per_sample not in SUBTYPES:
        raise source.unreadable(
            f"FLAC of {info.bits_per_sample} bits per sample: convert it to 16 or 24 bits first"
        )
    block_size = int.from_bytes(head[10:12], "big")
    audio_start = _behind_metadata(source.at, start)
    if audio_start is None:
        raise source.damaged(
            "FLAC cut off inside its metadata, or metadata damaged; fetch the file again"
        )
    if audio_start == source.size and info.frames == 0 and info.md5 in _NO_SAMPLES:
        return Structure("FLAC", frames=0, flac=info)
    sync = source.at(audio_start, 2)
    if sync not in (b"\xff\xf8", b"\xff\xf9"):
        raise source.damaged(
            f"FLAC without a frame at byte {audio_start}, where its metadata ends: cut off, or "
            "damaged; fetch the file again"
        )
    if info.frames == 0:
        return Structure("FLAC", seekable=False, flac=info, instead=_untagged(source, start))
    # A wrong total must not cause a huge allocation.
    if info.frames > (source.size // _SMALLEST_FRAME_BYTES + 1) * max(block_size, 1):
        raise source.damaged(
            f"FLAC announces {info.frames} frames, more than {source.size} bytes can hold"
        )
    if info.frames != known_frames:
        largest_frame = int.from_bytes(head[15:18], "big")
        _check_last_frame(source, info, audio_start, block_size, largest_frame)
    else:
        first = read_frame_header(source.at(audio_start, LONGEST_FRAME_HEADER))
        if first is None:
            raise source.damaged("FLAC whose first frame is damaged; fetch the file again")
        _compare(source, info, first)
    # Some encoders count the short last block as the smallest. libFLAC then cannot tell where a
    # numbered frame begins: most seeks fail, and some lead elsewhere.
    seekable = sync == b"\xff\xf9" or head[8:10] == head[10:12]
    excerpt = None
    if seekable and sync == b"\xff\xf8" and source.in_memory and source.size >= SMALLEST_SEARCHED:
        excerpt = FlacExcerpts(source.view(), head[8:], audio_start)
    return Structure(
        "FLAC",
        frames=info.frames,
        seekable=seekable,
        flac=info,
        instead=_untagged(source, start),
        excerpt=excerpt,
    )


def _head(source: Source, start: int) -> bytes:
    """Return the marker of the stream and its first metadata block."""
    head = source.at(start, _HEADER_BYTES)
    if len(head) < _HEADER_BYTES:
        raise source.damaged(
            f"FLAC cut off inside its header ({source.size} bytes); fetch the file again"
        )
    if head[:8] not in _BEGINNINGS:
        raise source.damaged("FLAC whose first metadata block is not STREAMINFO")
    return head


def _untagged(source: Source, start: int) -> Callable[[], Excerpt] | None:
    """Return what makes the stream without the tag before it; None without one.

    libsndfile skips an ID3v2 tag, but with a tag of some kilobytes its seeks fail.
    """
    if start == 0:
        return None
    return lambda: Excerpt(bytes(source.view()[start:]), 0)


def first_coded_rate(octets: memoryview) -> int | None:
    """Return the rate in Hz that the first frame's rate code stands for.

    0 if the frame leaves the rate to STREAMINFO; None if it stores the rate as a number, or if no
    frame follows the metadata.
    """
    if octets[: len(_MARKER)] != _MARKER:
        return None
    at = _behind_metadata(lambda begin, count: octets[begin : begin + count], 0)
    return None if at is None else coded_rate(octets, at)


def _read_stream_info(head: bytes) -> StreamInfo:
    packed = int.from_bytes(head[18:26], "big")
    return StreamInfo(
        sample_rate=packed >> 44,
        channels=(packed >> 41 & 7) + 1,
        bits_per_sample=(packed >> 36 & 31) + 1,
        frames=packed & 0xFFFFFFFFF,
        md5=head[26:42],
    )


def _behind_metadata(octets_at: Callable[[int, int], bytes | memoryview], start: int) -> int | None:
    """Return the position after the last metadata block.

    None if the stream ends before it, or has a second STREAMINFO, of which decoders take either.
    """
    begin = position = start + len(_MARKER)
    while len(head := octets_at(position, 4)) == 4:
        block = int.from_bytes(head, "big")
        if position != begin and block >> 24 & 0x7F == 0:
            return None
        position += 4 + (block & 0xFFFFFF)
        if block >> 31:
            return position
    return None


def _check_last_frame(
    source: Source, info: StreamInfo, audio_start: int, block_size: int, largest_frame: int
) -> None:
    """Check that the last frame ends at the total that STREAMINFO announces.

    libFLAC and dr_flac stop at the announced total, so they do not notice one that is too small.

    Raises:
        DamagedAudioError: it does not, or contradicts STREAMINFO in another way.
    """
    if largest_frame == 0:  # unknown: assume the raw samples and a little more
        largest_frame = block_size * info.channels * (info.bits_per_sample + 8) // 8
    count = min(largest_frame + _TAIL_BYTES, source.size - audio_start)
    last = find_last(source.at(source.size - count, count), block_size, info.frames)
    if last is None:  # more bytes than expected may follow it, such as a large tag
        last = find_last(bytes(source.view()[audio_start:]), block_size, info.frames)
    if last is None:
        raise source.damaged(
            f"FLAC announces {info.frames} frames, but its last frame does not end there: cut "
            "off, or damaged; fetch the file again"
        )
    _compare(source, info, last)


def _compare(source: Source, info: StreamInfo, frame: FrameHeader) -> None:
    """Check that a frame has the rate, channels and bit depth of STREAMINFO.

    Raises:
        DamagedAudioError: one of them differs.
    """
    for found, announced, unit in (
        (frame.sample_rate, info.sample_rate, "Hz"),
        (frame.channels, info.channels, "channels"),
        (frame.bits_per_sample, info.bits_per_sample, "bits"),
    ):
        if found not in (0, announced):
            raise source.damaged(
                f"FLAC whose header says {announced} {unit} and whose frames say {found} {unit}"
            )


class StreamDigest:
    """Compare decoded audio with the MD5 in STREAMINFO, block by block.

    Used if the total is unknown: frames carry checksums of their own, but only the digest shows
    that frames are missing at the end.
    """

    def __init__(self, info: StreamInfo) -> None:
        import hashlib

        self._expected = info.md5
        self._bits = info.bits_per_sample
        self._digest = hashlib.md5(usedforsecurity=False)

    def update(self, audio: np.ndarray) -> None:
        """Add a block of decoded float32 frames."""
        if not any(self._expected):
            return
        samples = np.rint(audio.astype(np.float64) * (1 << (self._bits - 1))).astype("<i4")
        width = (self._bits + 7) // 8
        octets = samples.reshape(-1, 1).view(np.uint8)
        self._digest.update(octets[:, :width].tobytes())

    def agrees(self) -> bool:
        """Whether the audio matches the digest; True if the stream has no digest."""
        return not any(self._expected) or self._digest.digest() == self._expected
