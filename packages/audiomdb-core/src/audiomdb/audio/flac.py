"""FLAC: the stream header, and the digest for streams that do not announce their length.

Layout after RFC 9639, section 8: the marker `fLaC`, then metadata blocks of which the first is
STREAMINFO (34 bytes), then frames, each closed by a CRC-16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from audiomdb.audio.flac_frames import (
    LONGEST_FRAME_HEADER,
    FrameHeader,
    coded_rate,
    find_last,
    read_frame_header,
)
from audiomdb.audio.structure import Structure

if TYPE_CHECKING:
    from collections.abc import Callable

    from audiomdb.audio.source import Source

__all__ = ["StreamDigest", "StreamInfo", "first_coded_rate", "inspect_flac"]

_HEADER_BYTES = 42
"""Marker, block header and STREAMINFO."""

_MARKER = b"fLaC"
_BEGINNINGS = (_MARKER + b"\x00\x00\x00\x22", _MARKER + b"\x80\x00\x00\x22")
"""Marker and block header of STREAMINFO, always the first block; and where it is the last, too."""

_SMALLEST_FRAME_BYTES = 10
"""Frame header of 6, one constant subframe of 2, CRC-16 of 2."""

_TAIL_BYTES = 512
"""What may follow the last frame and still let it be found: an ID3v1 tag, some padding."""

_NO_SAMPLES = (bytes(16), bytes.fromhex("d41d8cd98f00b204e9800998ecf8427e"))
"""Digests that fit a stream of 0 frames: none, and the MD5 of nothing."""


class StreamInfo(msgspec.Struct, frozen=True):
    """The fields of STREAMINFO that matter here."""

    sample_rate: int
    channels: int
    bits_per_sample: int

    frames: int
    """Total announced; 0 means unknown (or none)."""

    md5: bytes
    """Digest of the samples; 16 zero bytes mean unknown."""


def inspect_flac(source: Source, start: int = 0, *, known_frames: int | None = None) -> Structure:
    """Read the header of the stream that starts at byte `start`, and compare a frame with it.

    That is the last frame, which proves the announced length. Where the header announces
    `known_frames`, no proof is needed: then it is the first one, which takes no search.

    Raises:
        DamagedAudioError: the file ends inside the header, announces more frames than its bytes
            can hold, or contradicts itself.
    """
    head = source.at(start, _HEADER_BYTES)
    if len(head) < _HEADER_BYTES:
        raise source.damaged(
            f"FLAC cut off inside its header ({source.size} bytes); fetch the file again"
        )
    if head[:8] not in _BEGINNINGS:
        raise source.damaged("FLAC whose first metadata block is not STREAMINFO")
    info = _read_stream_info(head)
    block_size = int.from_bytes(head[10:12], "big")
    audio_start = _behind_metadata(source.at, start)
    if audio_start is None:
        raise source.damaged(
            "FLAC cut off inside its metadata, or metadata damaged; fetch the file again"
        )
    if audio_start == source.size and info.frames == 0 and info.md5 in _NO_SAMPLES:
        return Structure("FLAC", frames=0, flac=info)
    if source.at(audio_start, 2) not in (b"\xff\xf8", b"\xff\xf9"):
        raise source.damaged(
            f"FLAC without a frame at byte {audio_start}, where its metadata ends: cut off, or "
            "damaged; fetch the file again"
        )
    if info.frames == 0:
        return Structure("FLAC", frames_known=False, seekable=False, flac=info)
    # A lying total must not make anyone allocate for it.
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
    return Structure("FLAC", frames=info.frames, flac=info)


def first_coded_rate(octets: memoryview) -> int | None:
    """Rate in Hz that the first frame gives by a code; 0 where it leaves that to STREAMINFO.

    None where it says it in another way, or there is none where the metadata ends.
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
    """The byte behind the last metadata block; None where the stream ends before."""
    position = start + len(_MARKER)
    while len(head := octets_at(position, 4)) == 4:
        block = int.from_bytes(head, "big")
        position += 4 + (block & 0xFFFFFF)
        if block >> 31:
            return position
    return None


def _check_last_frame(
    source: Source, info: StreamInfo, audio_start: int, block_size: int, largest_frame: int
) -> None:
    """Find the last frame, and see that it ends where STREAMINFO says.

    libFLAC and dr_flac both stop at a total that is too small, so they do not notice one.

    Raises:
        DamagedAudioError: it does not, or is of another kind than STREAMINFO says.
    """
    if largest_frame == 0:  # not known: as large as the samples themselves, and a little more
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
    """See that a frame is of the kind that STREAMINFO says.

    Raises:
        DamagedAudioError: it is not.
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
    """Compares decoded audio with the MD5 in STREAMINFO, block by block.

    Used where the total is unknown: frames carry checksums of their own, but only the digest
    shows that frames are missing at the end.
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
        """Whether all of the audio was seen; True where the stream holds no digest."""
        return not any(self._expected) or self._digest.digest() == self._expected
