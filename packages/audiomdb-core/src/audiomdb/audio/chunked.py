"""Check AIFF, CAF, Sony Wave64, AU, NIST SPHERE and VOC files for completeness.

Each function checks that the file holds all the audio bytes that its header announces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiomdb.audio.structure import ByteOrder, Structure

if TYPE_CHECKING:
    from audiomdb.audio.source import Source

__all__ = [
    "inspect_aiff",
    "inspect_au",
    "inspect_caf",
    "inspect_nist",
    "inspect_voc",
    "inspect_w64",
]

_MAX_CHUNKS = 4096
_AU_HEADER_BYTES = 24
_UNKNOWN_SIZE_AU = 0xFFFFFFFF
_UNKNOWN_SIZE_CAF = 0xFFFFFFFFFFFFFFFF
_NIST_DIGITS = 18
_VOC_SOUND = (1, 2, 9)
_AIFF_PLAIN = (b"NONE", b"twos", b"sowt", b"raw ", b"in24", b"in32", b"42ni", b"23ni")
_AIFF_SAMPLE_BYTES = {
    b"ulaw": 1,
    b"ULAW": 1,
    b"alaw": 1,
    b"ALAW": 1,
    b"fl32": 4,
    b"FL32": 4,
    b"fl64": 8,
    b"FL64": 8,
}
"""Bytes per stored sample, for codings whose COMM chunk may give the width before encoding."""
_ALAC_20 = 2
"""Value of the CAF format flags for 20-bit ALAC."""


def inspect_aiff(source: Source) -> Structure:
    """Check that the SSND chunk of an AIFF or AIFF-C is whole and holds the frames of COMM."""
    frames, bits, channels = -1, 0, 0
    coding = b"NONE"
    sound_bytes = 0
    position = 12
    for _ in range(_MAX_CHUNKS):
        head = source.at(position, 8)
        if len(head) < 8:
            break
        name, size = head[:4], int.from_bytes(head[4:], "big")
        if name == b"COMM":
            body = source.at(position + 8, 22)
            frames = int.from_bytes(body[2:6], "big")
            bits = int.from_bytes(body[6:8], "big")
            channels = int.from_bytes(body[:2], "big")
            if size >= 22:
                coding = body[18:22]
        elif name == b"SSND":
            _demand(source, "AIFF", position + 8, size)
            # Two fields stand before the samples; the first says how many bytes more to skip.
            skipped = int.from_bytes(source.at(position + 8, 4), "big")
            sound_bytes = max(0, size - 8 - skipped)
        position += 8 + size + (size & 1)
    if frames < 0:
        raise source.damaged("AIFF without a COMM chunk: cut off inside its header")
    if frames > 0 and position > source.size + 1:
        raise source.damaged(f"AIFF cut off at byte {source.size}; fetch the file again")
    # libsndfile accepts an SSND chunk that is too short as the whole clip. For codings in blocks
    # only an empty chunk can be detected: what COMM counts there differs between programs.
    frame_bytes = channels * _AIFF_SAMPLE_BYTES.get(coding, (bits + 7) // 8)
    counted = coding in _AIFF_PLAIN or coding in _AIFF_SAMPLE_BYTES
    if frames > 0 and sound_bytes < (frames * frame_bytes if counted else 1):
        held = sound_bytes // frame_bytes if counted else 0
        raise source.damaged(
            f"AIFF announces {frames} frames and holds {held}: it was cut off, or edited; fetch "
            "the file again"
        )
    return Structure(
        "AIFF",
        samples_only=coding in (b"NONE", b"twos", b"sowt"),
        # libsndfile claims that DWVW is seekable, but seeking fails.
        seekable=coding != b"DWVW",
    )


def inspect_caf(source: Source) -> Structure:
    """Check that the chunks of a CAF up to and including the data are whole.

    A packet table (ALAC) may follow the data and is needed to decode it, so it must be whole too.
    """
    position, found = 8, False
    coding, flags = b"", 0
    for _ in range(_MAX_CHUNKS):
        head = source.at(position, 12)
        if len(head) < 12:
            break
        name, size = head[:4], int.from_bytes(head[4:], "big")
        if name == b"data" and size == _UNKNOWN_SIZE_CAF:
            found = True
            break
        if name not in _CAF_CHUNKS:
            break
        if name == b"desc":
            coding = source.at(position + 20, 4)
            flags = int.from_bytes(source.at(position + 24, 4), "big")
        _demand(source, "CAF", position + 12, size)
        found = found or name == b"data"
        position += 12 + size
    if not found:
        raise source.damaged("CAF cut off before its audio; fetch the file again")
    return Structure(
        "CAF",
        samples_only=coding in (b"lpcm", b"alaw", b"ulaw"),
        # After a seek in 20-bit stereo ALAC, libsndfile returns different samples.
        seekable=(coding, flags) != (b"alac", _ALAC_20),
    )


_CAF_CHUNKS = frozenset(
    b"desc|data|pakt|kuki|chan|free|info|mark|regn|inst|midi|ovvw|peak|edct|uuid|strg|umid".split(
        b"|"
    )
)


def inspect_w64(source: Source) -> Structure:
    """Check that the data chunk of a Sony Wave64 file is whole.

    Chunks have 16-byte names and 64-bit sizes, which include the 24-byte chunk header.
    """
    position = 40
    for _ in range(_MAX_CHUNKS):
        head = source.at(position, 24)
        if len(head) < 24:
            break
        name, size = head[:4], int.from_bytes(head[16:], "little")
        if size < 24:
            raise source.damaged(f"Wave64 with a chunk of {size} bytes at byte {position}")
        if name == b"data":
            _demand(source, "Wave64", position, size)
            return Structure("W64")
        position += size + 7 & ~7
    raise source.damaged("Wave64 cut off before its audio; fetch the file again")


def inspect_au(source: Source) -> Structure:
    """Check that a Sun or NeXT AU holds the announced data; all size bits set mean "to the end"."""
    order: ByteOrder = "big" if source.at(0, 4) == b".snd" else "little"
    head = source.at(4, 8)
    start = int.from_bytes(head[:4], order)
    size = int.from_bytes(head[4:], order)
    if len(head) < 8 or start > source.size:
        raise source.damaged("AU cut off inside its header; fetch the file again")
    if start < _AU_HEADER_BYTES:
        raise source.damaged(f"AU whose samples start at byte {start}, inside its header")
    if size == _UNKNOWN_SIZE_AU:
        return Structure("AU")
    _demand(source, "AU", start, size)
    if size == 0 and source.size > start:
        raise source.damaged(
            f"AU whose data size is 0, yet {source.size - start} bytes follow: the header was "
            "never finished"
        )
    return Structure("AU")


def inspect_nist(source: Source) -> Structure:
    """Check that a NIST SPHERE file holds the samples that its text header announces.

    The header consists of fields such as `sample_count -i 30393`.
    """
    fields: dict[str, str] = {}
    lines = source.at(0, 16).split(b"\n")
    header = int(lines[1]) if len(lines) > 2 and lines[1].strip().isdigit() else 0
    if not 16 <= header <= 1 << 20 or header > source.size:
        raise source.damaged("NIST SPHERE cut off inside its header; fetch the file again")
    for line in source.at(0, header).decode("latin-1").split("\n")[2:]:
        name, _, value = line.partition(" ")
        if name == "end_head":
            break
        fields[name] = value.partition(" ")[2]
    coding = fields.get("sample_coding", "pcm")
    if "shorten" in coding or "wavpack" in coding:
        raise source.unreadable(
            f"NIST SPHERE compressed with {coding.rpartition('-')[2]}: convert it with sph2pipe"
        )
    try:
        frames = _nist_number(fields["sample_count"])
        width = _nist_number(fields["sample_n_bytes"])
        channels = _nist_number(fields.get("channel_count", "1"))
    except (KeyError, ValueError):
        frames = -1
    if frames < 0:
        raise source.damaged("NIST SPHERE whose header does not say how long it is")
    size = frames * width * channels
    _demand(source, "NIST SPHERE", header, size)
    more = source.size - header - size
    if more >= max(1, width * channels):
        raise source.damaged(
            f"NIST SPHERE announces {size} bytes of audio, yet {more} more follow: its header lies"
        )
    return Structure("NIST", frames=frames)


def _nist_number(text: str) -> int:
    """Return a number of a NIST header.

    Raises:
        ValueError: it is not a whole number, or has more digits than the size of any file.
    """
    if len(text.strip()) > _NIST_DIGITS:
        raise ValueError(text)
    return int(text)


def inspect_voc(source: Source) -> Structure:
    """Check that a Creative VOC file is whole and has exactly one block of sound.

    A block starts with a type byte and a 24-bit size; a 0 byte ends the file.
    """
    position = int.from_bytes(source.at(20, 2), "little")
    sounds = 0
    for _ in range(_MAX_CHUNKS):
        head = source.at(position, 4)
        if not head:
            raise source.damaged("VOC without its closing block: cut off; fetch the file again")
        if head[0] == 0:
            break
        size = int.from_bytes(head[1:], "little")
        _demand(source, "VOC", position + 4, size)
        sounds += head[0] in _VOC_SOUND
        position += 4 + size
    if sounds != 1:
        raise source.unreadable(f"VOC with {sounds} blocks of sound: convert it to WAV first")
    return Structure("VOC")


def _demand(source: Source, container: str, position: int, size: int) -> None:
    available = max(0, source.size - position)
    if size > available:
        raise source.damaged(
            f"{container} announces {size} bytes of audio and holds {available}: cut off, or a "
            "lying size field; fetch the file again"
        )
