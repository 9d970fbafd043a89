"""Check all pages of an Ogg stream, and set its serial number.

The page layout follows RFC 3533, section 6. Decoders drop a page whose checksum is wrong and
continue with the next, so damage is only heard as a gap; here every page is checked. That costs
little: the checksum uses the polynomial of zlib's CRC-32, with the bits of each byte in reverse
order.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import msgspec

from audiomdb.audio.structure import Structure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from audiomdb.audio.source import Source

__all__ = ["checksum", "inspect_ogg", "set_serial"]

_HEADER = struct.Struct("<4sBBqIIIB")
_CHECKSUM = slice(22, 26)
_FIRST, _LAST = 2, 4  # of the flags of a page; 1: continues a packet
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

_CODECS = (b"\x01vorbis", b"OpusHead")
_OTHER_CODECS = {
    b"\x7fFLAC": "Ogg FLAC: convert to native FLAC first (`ffmpeg -i in.ogg -c copy out.flac`)",
    b"Speex   ": "Ogg Speex: convert to FLAC first",
    b"\x80theora": "Ogg video (Theora): extract the sound to FLAC first",
    b"fishead\x00": "Ogg with a Skeleton stream: extract the sound to FLAC first",
}


class _Page(msgspec.Struct, frozen=True):
    start: int
    stop: int
    flags: int
    granule: int
    serial: int
    sequence: int
    body: int
    """Position at which the packets of the page start."""


def checksum(page: bytes | bytearray) -> int:
    """Return the CRC-32 of an Ogg page whose checksum field is zero.

    The polynomial is 0x04C11DB7, most significant bit first, with initial value 0 and no final
    complement. zlib computes this on bit-reversed bytes, once its complements are undone and the
    bits of the result are reversed.
    """
    value = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(value.to_bytes(4, "little").translate(_REVERSED), "big")


def _pages(view: memoryview) -> Iterator[_Page | str]:
    """Yield every page in order, and last a str with the reason if the bytes do not end there."""
    position, size = 0, len(view)
    while position < size:
        if size - position < _HEADER.size:
            yield f"the last page is cut off at byte {size}"
            return
        capture, version, flags, granule, serial, sequence, _, segments = _HEADER.unpack_from(
            view, position
        )
        if capture != b"OggS" or version != 0:
            yield f"no page where one must start, at byte {position}"
            return
        body = position + _HEADER.size + segments
        stop = body + sum(view[position + _HEADER.size : body])
        if stop > size:
            yield f"the last page is cut off at byte {size}"
            return
        yield _Page(position, stop, flags, granule, serial, sequence, body)
        position = stop


def inspect_ogg(source: Source) -> Structure:
    """Check that all pages of a single Vorbis or Opus stream are present and undamaged.

    Raises:
        UnreadableAudioError: another codec, or more than one stream.
        DamagedAudioError: a page is missing, cut off or damaged, or the stream has no last page.
    """
    view = source.view()
    previous: _Page | None = None
    for page in _pages(view):
        if isinstance(page, str):
            if previous is not None and previous.flags & _LAST:
                break  # bytes after the stream's last page are not part of it
            raise source.damaged(f"Ogg: {page}; fetch the file again")
        if previous is None:
            _check_codec(source, view, page)
        elif page.flags & _FIRST:
            raise source.unreadable(
                "Ogg with several streams, chained or side by side: "
                "split it into files of one stream each"
            )
        elif page.serial != previous.serial or page.sequence != previous.sequence + 1:
            raise source.damaged(
                f"Ogg: pages are missing before byte {page.start} (number {page.sequence} "
                f"follows {previous.sequence})"
            )
        _check_page(source, view, page)
        previous = page
    if previous is None or not previous.flags & _LAST:
        raise source.damaged(
            "Ogg stream without its last page: the file was cut off, or recording never ended"
        )
    # Only decoding from the start gives the right samples. libsndfile's Opus decoder needs long to
    # converge after a seek (measured: differences of 2e-3 still 4 s later), and its Vorbis decoder
    # may be at another frame than it says (measured in libsndfile 1.2.2: one seek in seven in a
    # file by FFmpeg, and many of those of a decoder that has decoded something before).
    return Structure("OGG", seekable=False)


def _check_codec(source: Source, view: memoryview, page: _Page) -> None:
    packet = bytes(view[page.body : page.body + 8])
    if packet.startswith(_CODECS):
        return
    for start, advice in _OTHER_CODECS.items():
        if packet.startswith(start):
            raise source.unreadable(advice)
    raise source.unreadable("Ogg with a codec other than Vorbis or Opus: convert to FLAC first")


def _check_page(source: Source, view: memoryview, page: _Page) -> None:
    octets = bytearray(view[page.start : page.stop])
    announced = int.from_bytes(octets[_CHECKSUM], "little")
    octets[_CHECKSUM] = bytes(4)
    if checksum(octets) != announced:
        raise source.damaged(
            f"Ogg: the page at bytes {page.start} to {page.stop} fails its checksum"
        )


def set_serial(stream: bytes, serial: int) -> bytes:
    """Return a single Ogg stream with another serial number and new checksums.

    libsndfile chooses a random serial number, so the same audio would be encoded to other bytes.
    """
    octets = bytearray(stream)
    for page in _pages(memoryview(stream)):
        assert not isinstance(page, str), page
        piece = octets[page.start : page.stop]
        piece[14:18] = serial.to_bytes(4, "little")
        piece[_CHECKSUM] = bytes(4)
        piece[_CHECKSUM] = checksum(piece).to_bytes(4, "little")
        octets[page.start : page.stop] = piece
    return bytes(octets)
