"""Recognise the container of a clip by its first bytes, and check it by that container's rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiomdb.audio.chunked import (
    inspect_aiff,
    inspect_au,
    inspect_caf,
    inspect_nist,
    inspect_voc,
    inspect_w64,
)
from audiomdb.audio.flac import inspect_flac
from audiomdb.audio.mpeg import find_first_frame, inspect_mpeg
from audiomdb.audio.mpeg_tags import after_id3v2
from audiomdb.audio.ogg import inspect_ogg
from audiomdb.audio.riff import inspect_riff
from audiomdb.audio.sniff import describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from audiomdb.audio.source import Source
    from audiomdb.audio.structure import Structure

__all__ = ["inspect"]

_BY_MAGIC: dict[bytes, Callable[[Source], Structure]] = {
    b"OggS": inspect_ogg,
    b"caff": inspect_caf,
    b".snd": inspect_au,
    b"dns.": inspect_au,
    b"NIST_1A": inspect_nist,
    b"Creative Voi": inspect_voc,
    b"riff\x2e\x91\xcf\x11": inspect_w64,
}

_BY_FORM: dict[tuple[bytes, bytes], Callable[[Source], Structure]] = {
    (b"RIFF", b"WAVE"): inspect_riff,
    (b"RIFX", b"WAVE"): inspect_riff,
    (b"RF64", b"WAVE"): inspect_riff,
    (b"FORM", b"AIFF"): inspect_aiff,
    (b"FORM", b"AIFC"): inspect_aiff,
}


def inspect(source: Source, *, frames: int | None = None) -> Structure:
    """Check that a clip holds everything that its container announces, without decoding.

    Args:
        source: The clip.
        frames: Number of frames, if known from elsewhere. A FLAC that announces the same number
            needs no other proof of it.

    Raises:
        UnreadableAudioError: not audio, or an unsupported format.
        DamagedAudioError: the container announces more than the file holds, or is damaged.
    """
    head = source.at(0, 12)
    if head[:4] == b"fLaC":
        return inspect_flac(source, known_frames=frames)
    rules = _BY_FORM.get((head[:4], head[8:12]))
    if rules is not None:
        return rules(source)
    for magic, rules in _BY_MAGIC.items():
        if head.startswith(magic):
            return rules(source)
    start = after_id3v2(source)
    if start and source.at(start, 4) == b"fLaC":
        return inspect_flac(source, start, known_frames=frames)
    first = find_first_frame(source, start)
    if first is not None:
        return inspect_mpeg(source, first)
    if start >= source.size > 0:
        raise source.unreadable("an ID3 tag (or a part of one) without audio behind it")
    raise source.unreadable(f"this is {describe(source.at(0, 512), source.size)}")
