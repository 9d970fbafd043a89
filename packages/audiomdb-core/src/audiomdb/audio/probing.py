"""Facts about a clip: from its header alone, or from decoding all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiomdb.audio.fast_decoders import flac_is_whole, usual_wav
from audiomdb.audio.info import AudioInfo
from audiomdb.audio.inspection import inspect
from audiomdb.audio.opening import open_decoder
from audiomdb.audio.source import Source

if TYPE_CHECKING:
    from audiomdb.audio.base_decoder import Decoder
    from audiomdb.audio.flac import StreamInfo
    from audiomdb.audio.info import AudioSource
    from audiomdb.audio.structure import Structure

__all__ = ["check", "probe"]

_FLAC_SUBTYPES = {8: "PCM_S8", 16: "PCM_16", 24: "PCM_24"}
"""As libsndfile names them."""


def probe(source: AudioSource, *, name: str | None = None) -> AudioInfo:
    """Read what the headers say, without decoding.

    What is announced is compared with what is there, so a truncated file is found here already;
    damage inside a FLAC or MP3 takes `check`. Ogg and MP3 are read (not decoded) to their end.
    Thread-safe.

    Args:
        source: encoded bytes, or the path of a file.
        name: how errors call the clip; the path by default.

    Returns:
        The facts; `frames` is None for a FLAC that does not announce its length.

    Raises:
        UnreadableAudioError: no audio, a format that is not read here, or no such file.
        DamagedAudioError: the header is cut off, or announces more than there is.
    """
    with Source(source, name=name) as opened:
        if (facts := _wav_facts(opened)) is not None:
            return facts
        structure = inspect(opened)
        flac = structure.flac
        if flac is not None and flac.bits_per_sample in _FLAC_SUBTYPES:
            return _flac_facts(flac, structure.frames)
        with open_decoder(opened, structure) as decoder:
            return _facts(decoder, decoder.frames)


def check(source: AudioSource, *, name: str | None = None) -> AudioInfo:
    """Decode everything, keep nothing, and say how many frames there really are.

    Costs no more than `decode`, and no more memory than the encoded clip and a block. Samples that
    lie in a file as they are (PCM, float, A-law, u-law) cannot fail to decode and are only
    counted. Thread-safe.

    Args:
        source: encoded bytes, or the path of a file.
        name: how errors call the clip; the path by default.

    Returns:
        The facts, with the true number of frames.

    Raises:
        UnreadableAudioError: no audio, a format that is not read here, or no such file.
        DamagedAudioError: truncated, damaged, or not as long as its header says.
    """
    with Source(source, name=name) as opened:
        if (facts := _wav_facts(opened)) is not None:
            return facts
        structure = inspect(opened)
        flac = structure.flac
        if flac is not None and (structure.frames == 0 or _decodes_fast(opened, structure)):
            return _flac_facts(flac, structure.frames)
        with open_decoder(opened, structure) as decoder:
            if structure.samples_only:
                return _facts(decoder, decoder.frames)
            return _facts(decoder, sum(len(block) for block in decoder.blocks()))


def _wav_facts(source: Source) -> AudioInfo | None:
    """Facts about a WAV in memory that takes no closer look: libsndfile would say the same."""
    plain = usual_wav(source.view()) if source.in_memory else None
    if plain is None:
        return None
    subtype = "FLOAT" if plain.dtype.kind == "f" else "PCM_16"
    return AudioInfo("WAV", subtype, plain.sample_rate, plain.channels, plain.frames)


def _facts(decoder: Decoder, frames: int | None) -> AudioInfo:
    return AudioInfo(
        decoder.container, decoder.subtype, decoder.sample_rate, decoder.channels, frames
    )


def _decodes_fast(source: Source, structure: Structure) -> bool:
    flac = structure.flac
    return flac is not None and structure.frames_known and flac_is_whole(source.view(), flac)


def _flac_facts(flac: StreamInfo, frames: int | None) -> AudioInfo:
    subtype = _FLAC_SUBTYPES.get(flac.bits_per_sample, f"PCM_{flac.bits_per_sample}")
    return AudioInfo("FLAC", subtype, flac.sample_rate, flac.channels, frames)
