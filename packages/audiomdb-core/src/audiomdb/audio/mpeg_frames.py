"""Headers of MPEG audio frames, the tag in front of them, and how to make both.

Tables after ISO/IEC 11172-3 and 13818-3; the Xing and LAME tags have no standard, their layout is
that of LAME 3.100.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

__all__ = ["FrameHeader", "Tag", "read_frame_header", "read_tag", "silence_before", "silenced"]

_BITRATES = {  # kbit/s by index 1 to 14, for MPEG-1 or the later two, and the layer
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_LARGEST_BITRATE = 14
_RATES = (44100, 48000, 32000)
_DIVISORS = {3: 1, 2: 2, 0: 4}  # version bits: MPEG-1, MPEG-2, MPEG-2.5


class FrameHeader(msgspec.Struct, frozen=True):
    """What the first three bytes of a frame say."""

    size: int
    """Bytes of the whole frame."""
    samples: int
    """Frames of audio (samples per channel) that it decodes to."""
    sample_rate: int
    layer: int
    mpeg1: bool
    checksum: bool
    """Whether two bytes of CRC follow the header."""

    def fits(self, other: FrameHeader) -> bool:
        """Whether both can belong to one stream."""
        return (self.sample_rate, self.layer, self.mpeg1) == (
            other.sample_rate,
            other.layer,
            other.mpeg1,
        )


@lru_cache(maxsize=4096)
def read_frame_header(head: bytes) -> FrameHeader | None:
    """Parse the first three bytes of a frame; None where they cannot start one."""
    if len(head) < 3 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bitrate, rate = head[2] >> 4, head[2] >> 2 & 3
    # Bitrate 0 is the free format, whose frames do not tell their size.
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return None
    mpeg1 = version == 3
    bits = _BITRATES[1 if mpeg1 else 2, layer][bitrate - 1] * 1000
    sample_rate = _RATES[rate] // _DIVISORS[version]
    padding = head[2] >> 1 & 1
    if layer == 1:
        size, samples = (12 * bits // sample_rate + padding) * 4, 384
    else:
        samples = 1152 if layer == 2 or mpeg1 else 576
        size = samples // 8 * bits // sample_rate + padding
    return FrameHeader(size, samples, sample_rate, layer, mpeg1, checksum=not head[1] & 1)


class Tag(msgspec.Struct, frozen=True):
    """A Xing or Info tag, which stands in a first frame without audio."""

    frames: int | None
    """Frames that follow, or None where it does not say."""
    by_lame: bool
    """Whether the LAME extension is there, with the two lengths below."""
    delay: int
    """Samples of silence that the encoder put in front."""
    padding: int
    """Samples of silence that it put behind."""


def read_tag(head: bytes, first: FrameHeader) -> Tag | None:
    """The tag in the first frame, whose first 256 bytes are `head`, if there is one."""
    if first.layer != 3:
        return None
    side_info = _side_info_bytes(head, first)
    for position in (4 + side_info, 6 + side_info):  # the second behind a frame checksum
        if head[position : position + 4] in (b"Xing", b"Info"):
            break
    else:
        return None
    flags = int.from_bytes(head[position + 4 : position + 8], "big")
    at = position + 8
    frames = int.from_bytes(head[at : at + 4], "big") if flags & 1 else None
    at += 4 * (flags & 1) + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
    lengths = int.from_bytes(head[at + 21 : at + 24], "big")
    return Tag(frames, any(head[at : at + 9]), lengths >> 12, lengths & 0xFFF)


def silence_before(head: bytes, first: FrameHeader, silent: int, count: int) -> bytes:
    """A frame with a tag that announces the rest, and `silent` frames of silence.

    Args:
        head: the first four bytes of a frame of the stream.
        first: the same, parsed.
        silent: frames of silence to write.
        count: frames that will follow the silence.
    """
    # Without a frame checksum or a padding byte. The largest frames leave so many bytes in the
    # bit reservoir that a frame behind them never asks for more than there are.
    start = bytes((0xFF, head[1] | 1, _LARGEST_BITRATE << 4 | head[2] & 0x0C, head[3]))
    header = read_frame_header(start[:3])
    assert header is not None
    tag = start + bytes(_side_info_bytes(head, first)) + b"Xing" + (1).to_bytes(4, "big")
    tag += (silent + count).to_bytes(4, "big")
    return tag.ljust(header.size, b"\0") + start.ljust(header.size, b"\0") * silent


def silenced(frame: bytes, header: FrameHeader) -> bytes:
    """The same layer III frame, which decodes to silence and still feeds the bit reservoir.

    Its side information keeps only how far the frame reaches back (9 bits, or 8 in MPEG-2).
    """
    kept = frame[4] << 8 | (frame[5] & 0x80 if header.mpeg1 else 0)
    side_info = kept.to_bytes(2, "big").ljust(_side_info_bytes(frame, header), b"\0")
    return frame[:4] + side_info + frame[4 + len(side_info) :]


def _side_info_bytes(head: bytes, first: FrameHeader) -> int:
    mono = head[3] >> 6 == 3
    if first.mpeg1:
        return 17 if mono else 32
    return 9 if mono else 17
