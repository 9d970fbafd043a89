"""The way to libsndfile, for clips that need it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from audiomdb.audio.base_decoder import Decoder
    from audiomdb.audio.source import Source
    from audiomdb.audio.structure import Excerpt, Structure

__all__ = ["open_decoder"]


def open_decoder(
    source: Source, structure: Structure, *, excerpt: Excerpt | None = None
) -> Decoder:
    """Open a clip, or an excerpt made from it, with libsndfile.

    That is imported by the first clip that comes here: processes that stream FLAC and WAV may
    never meet one (docs/decisions/0026).

    Raises:
        UnreadableAudioError: libsndfile does not know the coding.
        DamagedAudioError: the stream's own header is broken.
    """
    from audiomdb.audio.base_decoder import Decoder

    return Decoder(source, structure, excerpt)
