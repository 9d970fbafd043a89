"""Read the properties of a clip from its headers alone, or by decoding all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiomdb.audio.fast_decoders import flac_is_whole, usual_wav
from audiomdb.audio.flac import SUBTYPES
from audiomdb.audio.info import AudioInfo
from audiomdb.audio.inspection import inspect
from audiomdb.audio.opening import open_decoder
from audiomdb.audio.source import Source

if TYPE_CHECKING:
    from audiomdb.audio.base_decoder import Decoder
    from audiomdb.audio.flac import StreamInfo
    from audiomdb.audio.info import AudioSource
    from audiomdb.audio.structure import Plain

__all__ = ["check", "probe"]


def probe(source: AudioSource, *, name: str | None = None) -> AudioInfo:
    """Read the properties of a clip from its headers, without decoding.

    The announced sizes are compared with the bytes in the file, so a truncated file is detected;
    only `check` detects damage inside a FLAC or MP3. Ogg and MP3 are read (not decoded) to their
    end. Thread-safe.

    Args:
        source: encoded bytes, or the path of a file.
        name: name of the clip in error messages; the path by default.

    Returns:
        The properties; `frames` is None for a FLAC that does not announce its length.

    Raises:
        UnreadableAudioError: not audio, an unsupported format, or no such file.
        DamagedAudioError: the header is cut off, or announces more than the file holds.
    """
    with Source(source, name=name) as opened:
        if (facts := _wav_facts(opened)) is not None:
            return facts
        structure = inspect(opened)
        flac = structure.flac
        if flac is not None:
            return _flac_facts(flac, structure.frames)
        with open_decoder(opened, structure) as decoder:
            _compare(opened, structure.plain, decoder)
            return _facts(decoder, decoder.frames)


def check(source: AudioSource, *, name: str | None = None) -> AudioInfo:
    """Decode a whole clip to verify it and count its frames, without keeping the audio.

    Takes no longer than `decode`, and only the memory for the encoded clip and one decoded block.
    Samples that are stored without compression (PCM, float, A-law, u-law) cannot fail to decode and
    are only counted. Thread-safe.

    Args:
        source: encoded bytes, or the path of a file.
        name: name of the clip in error messages; the path by default.

    Returns:
        The properties, with the true number of frames.

    Raises:
        UnreadableAudioError: not audio, an unsupported format, or no such file.
        DamagedAudioError: truncated, damaged, or not as long as its header says.
    """
    with Source(source, name=name) as opened:
        if (facts := _wav_facts(opened)) is not None:
            return facts
        structure = inspect(opened)
        flac, frames = structure.flac, structure.frames
        if flac is not None and (frames == 0 or (frames and flac_is_whole(opened.view(), flac))):
            return _flac_facts(flac, frames)
        with open_decoder(opened, structure) as decoder:
            _compare(opened, structure.plain, decoder)
            if structure.samples_only:
                return _facts(decoder, decoder.frames)
            return _facts(decoder, sum(len(block) for block in decoder.blocks()))


def _wav_facts(source: Source) -> AudioInfo | None:
    """Return the properties of an in-memory WAV with the shortest header, as libsndfile would."""
    plain = usual_wav(source.view()) if source.in_memory else None
    if plain is None:
        return None
    subtype = "FLOAT" if plain.dtype.kind == "f" else "PCM_16"
    return AudioInfo("WAV", subtype, plain.sample_rate, plain.channels, plain.frames)


def _compare(source: Source, plain: Plain | None, decoder: Decoder) -> None:
    """Refuse a WAV in which libsndfile finds other samples than `decode`, such as a second chunk.

    Raises:
        DamagedAudioError: its number of frames or channels, or its rate, is another one.
    """
    if plain is None:
        return
    ours = (plain.frames, plain.channels, plain.sample_rate)
    theirs = (decoder.frames, decoder.channels, decoder.sample_rate)
    if ours != theirs:
        raise source.damaged(
            "WAV that can be read in two ways, as {} frames of {} channels at {} Hz or as {} of {} "
            "at {}: has it two data chunks?".format(*ours, *theirs)
        )


def _facts(decoder: Decoder, frames: int | None) -> AudioInfo:
    return AudioInfo(
        decoder.container, decoder.subtype, decoder.sample_rate, decoder.channels, frames
    )


def _flac_facts(flac: StreamInfo, frames: int | None) -> AudioInfo:
    return AudioInfo(
        "FLAC", SUBTYPES[flac.bits_per_sample], flac.sample_rate, flac.channels, frames
    )
