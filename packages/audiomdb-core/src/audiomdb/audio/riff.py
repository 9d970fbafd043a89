"""Check WAV files for completeness: RIFF, big-endian RIFX, and RF64 with 64-bit sizes.

A size field may be open-ended, because a program that writes to a pipe cannot go back and fill it
in. All bits set (and SoX's 0x7FFFF000) mean "to the end of the file", and so does 0 if the RIFF
size is 0 too. Truncation between two frames of such a file cannot be detected; in every other file
it can. What outgrew the sizes of such a header is refused, since libsndfile reads a part of it; so
is an RF64 that was written to a pipe, which it takes for empty.
"""

from __future__ import annotations

from functools import partial
from struct import Struct
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from audiomdb.audio.structure import ByteOrder, Excerpt, Plain, Structure

if TYPE_CHECKING:
    from collections.abc import Callable

    from audiomdb.audio.source import Source

__all__ = ["inspect_riff", "short_plain"]

_CONTAINERS = {b"RIFF": "WAV", b"RIFX": "WAV", b"RF64": "RF64"}
_OPEN_SIZES = (0xFFFFFFFF, 0x7FFFF000)
_PCM, _FLOAT, _EXTENSIBLE = 0x0001, 0x0003, 0xFFFE
_PLAIN_CODINGS = (0x0001, 0x0003, 0x0006, 0x0007)  # PCM, float, A-law, u-law
_PLAIN_DTYPES: dict[tuple[int, int], np.dtype] = {
    (_PCM, 16): np.dtype("<i2"),
    (_FLOAT, 32): np.dtype("<f4"),
}
"""Dtype in little-endian files for each coding and bit depth."""

_MAX_CHUNKS = 4096
_TOLERATED_BYTES = 4096
_MAX_CHANNELS, _MAX_RATE_HZ = 1024, 2**31 - 1
"""libsndfile's limits: whether a file is readable must not depend on which decoder is used."""

_SHORT = Struct("<4sI8sIHHIIHH4sI")
"""The shortest header, which most programs write.

RIFF and its size; WAVE; the 16 bytes of `fmt `; data and its size."""

_SHORT_BYTES = _SHORT.size
_R = ord("R")

_KNOWN_CHUNKS = frozenset(
    (
        b"LIST|INFO|id3 |ID3 |bext|cue |smpl|fact|JUNK|junk|PAD |iXML|axml|inst|plst|PEAK|FLLR"
        b"|acid|strc|umid|minf|elm1|regn|afsp|chna|cart|levl|_PMX|DISP"
    ).split(b"|")
)


class _Format(msgspec.Struct, frozen=True):
    coding: int
    channels: int
    sample_rate: int
    frame_bytes: int
    bits: int


class _Data(msgspec.Struct, frozen=True):
    position: int
    """Position of the samples, behind the chunk's 4-byte size field."""
    size: int
    """Announced size in bytes; taken from ds64 in RF64."""


def inspect_riff(source: Source) -> Structure:
    """Check that the data chunk of a WAV is whole.

    Raises:
        UnreadableAudioError: no format or data chunk, an impossible rate or number of channels, or
            open-ended and too large.
        DamagedAudioError: fewer bytes than announced, or samples that no size field covers.
    """
    head = source.at(0, 12)
    container = _CONTAINERS[head[:4]]
    order: ByteOrder = "big" if head[:4] == b"RIFX" else "little"
    outer = int.from_bytes(head[4:8], order)
    fmt, data = _chunks(source, container, order, outer)
    size = data.size
    instead: Callable[[], Excerpt] | None = None
    available = source.size - data.position
    if _is_open(source, container, outer, data):
        if available == 0:
            raise source.damaged(f"{container} header without any audio behind it")
        if available > (data.size or max(_OPEN_SIZES)):
            raise source.unreadable(
                f"{container} that was written to a pipe, of {available} bytes of audio, more than "
                "its header can say: convert it to FLAC first"
            )
        rest = available % max(fmt.frame_bytes, 1)
        size = available - rest
        if rest and not (rest == 1 and size % 2):  # an odd size is padded by one byte
            raise source.damaged(f"{container} cut off in the middle of a frame")
        if data.size == 0:
            instead = partial(_open_ended, source, data)
    elif data.size > available:
        raise source.damaged(
            f"{container} announces {data.size} bytes of audio and holds {available}: cut off, or "
            "a lying size field; fetch the file again"
        )
    elif (
        container == "RF64"
        and size == 0 < available
        and not _chunk_fits(source, order, data.position, source.size)
    ):
        raise source.damaged(
            f"RF64 that says it has no audio, yet {available} bytes follow: its sizes were never "
            "filled in, as in a pipe; write it to a file instead"
        )
    else:
        _check_rest(source, container, order, outer, data)
    return Structure(
        container,
        samples_only=fmt.coding in _PLAIN_CODINGS,
        plain=_plain(fmt, data.position, size, order),
        instead=instead,
    )


def short_plain(octets: memoryview) -> Plain | None:
    """Locate the samples of a WAV that has the shortest header and nothing after the samples.

    None for any other file, and if the header contradicts itself or the size of the file. This
    detects everything that `inspect_riff` can detect in such a file, in a tenth of the time.
    """
    total = len(octets)
    if total <= _SHORT_BYTES or octets[0] != _R:
        return None
    riff, outer, wave, fmt_size, *form, data, size = _SHORT.unpack_from(octets)
    coding, channels, sample_rate, _, frame_bytes, bits = form
    if (riff, wave, fmt_size, data) != (b"RIFF", b"WAVEfmt ", 16, b"data"):
        return None
    if outer + 8 != total or size + _SHORT_BYTES != total:
        return None
    if not _is_credible(channels, sample_rate):
        return None
    fmt = _Format(coding, channels, sample_rate, frame_bytes, bits)
    plain = _plain(fmt, _SHORT_BYTES, size, "little")
    return None if plain is None or size % frame_bytes else plain


def _chunks(source: Source, container: str, order: ByteOrder, outer: int) -> tuple[_Format, _Data]:
    """Walk the chunks, and return the format and the position of the samples."""
    fmt: _Format | None = None
    long_size: int | None = None
    position = 12
    for _ in range(_MAX_CHUNKS):
        head = source.at(position, 8)
        if len(head) < 8:
            break
        name, size = head[:4], int.from_bytes(head[4:8], order)
        body = position + 8
        if name == b"data":
            if fmt is None:
                raise source.unreadable("WAV without a format (fmt) chunk before its data")
            if not _is_credible(fmt.channels, fmt.sample_rate):
                raise source.unreadable(
                    f"WAV that claims {fmt.channels} channels at {fmt.sample_rate} Hz"
                )
            if size == 0xFFFFFFFF and long_size is not None:
                size = long_size
            elif long_size not in (None, size):
                raise source.damaged(
                    f"WAV whose data chunk says {size} bytes and whose ds64 chunk says {long_size}"
                )
            return fmt, _Data(body, size)
        if name == b"fmt ":
            fmt = _format(source.at(body, min(size, 40)), order)
        elif name == b"ds64" and container == "RF64":
            long_size = int.from_bytes(source.at(body + 8, 8), "little")
        position = body + size + (size & 1)
    if outer + 8 > source.size and outer not in _OPEN_SIZES:
        raise source.damaged(
            f"WAV cut off before its audio: {source.size} of {outer + 8} bytes; "
            "fetch the file again"
        )
    raise source.unreadable("WAV without a data chunk")


def _is_credible(channels: int, sample_rate: int) -> bool:
    return 0 < channels <= _MAX_CHANNELS and 0 < sample_rate <= _MAX_RATE_HZ


def _format(body: bytes, order: ByteOrder) -> _Format:
    def number(start: int, stop: int) -> int:
        return int.from_bytes(body[start:stop], order)

    coding = number(0, 2)
    if coding == _EXTENSIBLE and len(body) >= 26:
        coding = number(24, 26)
    return _Format(coding, number(2, 4), number(4, 8), number(12, 14), number(14, 16))


def _is_open(source: Source, container: str, outer: int, data: _Data) -> bool:
    """Whether the size field is open-ended, so that the data extends to the end of the file."""
    if container == "RF64":
        return False
    if data.size in _OPEN_SIZES:
        # A file may happen to have just so many bytes of audio.
        return data.position + data.size > source.size or 8 + outer != source.size
    return data.size == outer == 0


def _open_ended(source: Source, data: _Data) -> Excerpt:
    """Return the file with sizes that mean "to the end" for libsndfile too, which 0 does not."""
    octets = bytearray(source.view())
    octets[4:8] = octets[data.position - 4 : data.position] = b"\xff" * 4
    return Excerpt(bytes(octets), 0)


def _check_rest(source: Source, container: str, order: ByteOrder, outer: int, data: _Data) -> None:
    """Check that the data is followed by chunks and not by more samples, within the RIFF chunk.

    Bytes after the RIFF chunk are ignored, unless they are the larger part of the file: then the
    size fields must be too small (in a file over 4 GiB, for example).
    """
    if container == "RF64" or outer in _OPEN_SIZES:
        return
    end = min(8 + outer, source.size)
    behind = source.size - end
    if behind > max(end, _TOLERATED_BYTES):
        raise source.damaged(
            f"{container} says it has {end} bytes, yet {behind} more follow: its size fields lie"
        )
    position = data.position + data.size
    padded = position + (data.size & 1)
    if end - padded < 8 or _chunk_fits(source, order, padded, end):
        return
    if padded != position and _chunk_fits(source, order, position, end):
        return  # written without the padding byte
    raise source.damaged(
        f"{container} whose data chunk says {data.size} bytes, yet {end - position} more bytes "
        "follow that are no chunk: the size field lies"
    )


def _chunk_fits(source: Source, order: ByteOrder, position: int, end: int) -> bool:
    head = source.at(position, 8)
    name, size = head[:4], int.from_bytes(head[4:8], order)
    if name in _KNOWN_CHUNKS:
        return True
    return all(0x20 <= letter < 0x7F for letter in name) and position + 8 + size <= end


def _plain(fmt: _Format, position: int, size: int, order: ByteOrder) -> Plain | None:
    dtype = _PLAIN_DTYPES.get((fmt.coding, fmt.bits))
    if dtype is None or fmt.frame_bytes != fmt.channels * fmt.bits // 8:
        return None
    if order == "big":
        dtype = dtype.newbyteorder(">")
    return Plain(dtype, position, size // fmt.frame_bytes, fmt.channels, fmt.sample_rate)
