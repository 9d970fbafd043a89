"""Parse FLAC frame headers, and find the last frame to learn the true length of a stream.

The layout follows RFC 9639, section 9.1. A header carries the number of its frame and a checksum of
itself, so the last one in a file shows where the audio ends, whatever STREAMINFO announces.
"""

from __future__ import annotations

from functools import cache

import msgspec

__all__ = ["LONGEST_FRAME_HEADER", "FrameHeader", "coded_rate", "find_last", "read_frame_header"]

_SYNC = (b"\xff\xf8", b"\xff\xf9")  # identified by frame number, or by number of the first sample
LONGEST_FRAME_HEADER = 16
_RATES = (0, 88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)
_BITS = (0, 8, 12, -1, 16, 20, 24, 32)


@cache
def _crc8_table() -> bytes:
    table = bytearray(256)
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value << 1 ^ 0x07 if value & 0x80 else value << 1) & 0xFF
        table[byte] = value
    return bytes(table)


class FrameHeader(msgspec.Struct, frozen=True):
    """A parsed FLAC frame header; properties that it leaves to STREAMINFO are 0."""

    number: int
    """Number of the frame, or of its first sample if `counts_samples` (varying block size)."""
    counts_samples: bool
    block_size: int
    sample_rate: int
    channels: int
    bits_per_sample: int


def read_frame_header(octets: bytes) -> FrameHeader | None:
    """Parse the frame header at the start of `octets`; None if there is none, or it is damaged."""
    if len(octets) < 6 or octets[:2] not in _SYNC:
        return None
    size_code, rate_code = octets[2] >> 4, octets[2] & 15
    channel_code, bits_code = octets[3] >> 4, octets[3] >> 1 & 7
    bits = _BITS[bits_code]
    if size_code == 0 or rate_code == 15 or channel_code > 10 or bits < 0 or octets[3] & 1:
        return None
    number, at = _read_number(octets)
    size_bytes = {6: 1, 7: 2}.get(size_code, 0)
    rate_bytes = {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    crc_at = at + size_bytes + rate_bytes
    if at == 0 or crc_at >= len(octets) or _crc8(octets[:crc_at]) != octets[crc_at]:
        return None
    if size_bytes:
        block_size = int.from_bytes(octets[at : at + size_bytes], "big") + 1
    elif size_code == 1:
        block_size = 192
    else:
        block_size = 576 << size_code - 2 if size_code < 6 else 256 << size_code - 8
    if rate_bytes:
        rate = int.from_bytes(octets[at + size_bytes : crc_at], "big")
        rate *= {12: 1000, 13: 1, 14: 10}[rate_code]
    else:
        rate = _RATES[rate_code]
    channels = channel_code + 1 if channel_code < 8 else 2
    return FrameHeader(number, octets[1] == 0xF9, block_size, rate, channels, bits)


def coded_rate(octets: memoryview, at: int) -> int | None:
    """Return the rate in Hz that the rate code of the frame at byte `at` stands for.

    0 if the frame leaves the rate to STREAMINFO; None if it stores the rate as a number, or if
    there is no frame. The checksum of the header is left to the decoder.
    """
    head = octets[at : at + 3]
    if head[:2] not in _SYNC or len(head) < 3:
        return None
    code = head[2] & 15
    return _RATES[code] if code < len(_RATES) else None


def _read_number(octets: bytes) -> tuple[int, int]:
    """Parse the UTF-8-like number (up to 36 bits), and return it and its end; 0, 0 if malformed."""
    lead = octets[4]
    if lead < 0x80:
        return lead, 5
    extra = next((n for n in range(1, 7) if not lead >> 6 - n & 1), 0)
    tail = octets[5 : 5 + extra]
    if lead < 0xC0 or lead == 0xFF or len(tail) < extra or any(b >> 6 != 2 for b in tail):
        return 0, 0
    value = lead & (1 << 6 - extra) - 1
    for byte in tail:
        value = value << 6 | byte & 0x3F
    return value, 5 + extra


def _crc8(octets: bytes) -> int:
    value, table = 0, _crc8_table()
    for byte in octets:
        value = table[value ^ byte]
    return value


def find_last(octets: bytes, block_size: int, frames: int) -> FrameHeader | None:
    """Return the header of the last FLAC frame if the audio ends there, at sample `frames`.

    Args:
        octets: the end of the file.
        block_size: samples per channel in all FLAC frames but the last, from STREAMINFO.
        frames: total samples per channel that STREAMINFO announces.

    Returns:
        None if no frame in `octets` ends there, or another frame follows it. Samples can look like
        a header by chance, so headers with any other number are skipped.
    """
    for sync in _SYNC:
        at = octets.rfind(sync)
        while at >= 0:
            header = read_frame_header(octets[at : at + LONGEST_FRAME_HEADER])
            if header is not None:
                starts = {header.number, header.number * block_size}
                if header.counts_samples:
                    starts = {header.number}
                if frames in starts:
                    return None
                if frames - header.block_size in starts:
                    return header
            at = octets.rfind(sync, 0, at)
    return None
