"""Open clips with libsndfile, which is imported on first use."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from audiomdb.lazy import importing

if TYPE_CHECKING:
    from audiomdb.audio.base_decoder import Decoder
    from audiomdb.audio.source import Source
    from audiomdb.audio.structure import Excerpt, Structure

__all__ = ["open_decoder"]


def open_decoder(
    source: Source, structure: Structure, *, excerpt: Excerpt | None = None
) -> Decoder:
    """Open a clip, or an excerpt made from it, with libsndfile.

    The first call imports libsndfile; a process that streams only FLAC and WAV may never need it
    (docs/decisions/0026).

    Raises:
        UnreadableAudioError: libsndfile does not support the coding.
        DamagedAudioError: the header of the stream is broken.
    """
    return _decoder()(source, structure, excerpt)


@cache  # so that only the first clip waits for others that import
def _decoder() -> type[Decoder]:
    with importing():
        from audiomdb.audio.base_decoder import Decoder

    return Decoder
