"""Parse and write MPEG audio frame headers, and the Xing tag in front of them.

The tables follow ISO/IEC 11172-3 and 13818-3. The Xing and LAME tags have no standard; their layout
is that of LAME 3.100.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

__all__ = ["FrameHeader", "Tag", "read_frame_header", "read_tag", "silence_before", "silenced"]

_BITRATES = {  # kbit/s by index 1 to 14; keys are 1 for MPEG-1 or 2 for later versions, and layer
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
    """The fields in the first three bytes of an MPEG audio frame."""

    size: int
    """Size of the whole frame in bytes."""
    samples: int
    """Samples per channel that the frame decodes to."""
    sample_rate: int
    layer: int
    mpeg1: bool
    checksum: bool
    """Whether a CRC of two bytes follows the header."""

    def fits(self, other: FrameHeader) -> bool:
        """Whether both frames can belong to one stream."""
        return (self.sample_rate, self.layer, self.mpeg1) == (
            other.sample_rate,
            other.layer,
            other.mpeg1,
        )


@lru_cache(maxsize=4096)
def read_frame_header(head: bytes) -> FrameHeader | None:
    """Parse the first three bytes of a frame; None if no frame can start with them."""
    if len(head) < 3 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bitrate, rate = head[2] >> 4, head[2] >> 2 & 3
    # Bitrate 0 is the free format, whose headers do not give the frame size.
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
    """A Xing or Info tag, stored in a first frame that holds no audio."""

    frames: int | None
    """Number of frames that follow, or None if the tag does not state it."""
    by_lame: bool
    """Whether the tag has the LAME extension, which holds `delay` and `padding`."""
    delay: int
    """Samples of silence that the encoder put before the audio."""
    padding: int
    """Samples of silence that the encoder put after the audio."""


def read_tag(head: bytes, first: FrameHeader) -> Tag | None:
    """Parse the tag in the first frame, whose first 256 bytes are `head`; None without a tag."""
    if first.layer != 3:
        return None
    side_info = _side_info_bytes(head, first)
    for position in (4 + side_info, 6 + side_info):  # the second is after a frame checksum
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
    """Return a frame with a tag that announces all other frames, and `silent` frames of silence.

    Args:
        head: the first four bytes of a frame of the stream.
        first: the same, parsed.
        silent: frames of silence to write.
        count: number of frames that will follow the silence.
    """
    # These frames have no checksum and no padding byte. They are as large as possible, to leave
    # more bytes in the bit reservoir than any frame after them can refer to.
    start = bytes((0xFF, head[1] | 1, _LARGEST_BITRATE << 4 | head[2] & 0x0C, head[3]))
    header = read_frame_header(start[:3])
    assert header is not None
    tag = start + bytes(_side_info_bytes(head, first)) + b"Xing" + (1).to_bytes(4, "big")
    tag += (silent + count).to_bytes(4, "big")
    return tag.ljust(header.size, b"\0") + start.ljust(header.size, b"\0") * silent


def silenced(frame: bytes, header: FrameHeader) -> bytes:
    """Return a layer III frame changed to decode to silence while it feeds the bit reservoir.

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
