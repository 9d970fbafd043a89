"""Define `AudioInfo`, the properties of an encoded clip, and the accepted audio sources."""

from __future__ import annotations

import os
from typing import TypeAlias

import msgspec

__all__ = ["AudioInfo", "AudioSource"]

AudioSource: TypeAlias = bytes | bytearray | memoryview | str | os.PathLike[str]
"""Encoded audio in memory, which is not copied, or the path of a file."""


class AudioInfo(msgspec.Struct, frozen=True):
    """Properties of one encoded clip."""

    container: str
    """Container, as libsndfile names it: `"WAV"`, `"FLAC"`, `"OGG"`, `"MP3"`, ..."""

    subtype: str
    """Coding of the samples: `"PCM_16"`, `"FLOAT"`, `"VORBIS"`, `"OPUS"`, ..."""

    sample_rate: int
    """Frames per second (Hz)."""

    channels: int
    """Number of channels, that is, samples in a frame."""

    frames: int | None
    """Number of frames, or None if only decoding can tell (a streamed FLAC)."""

    @property
    def duration(self) -> float | None:
        """Length in seconds, or None if `frames` is None."""
        return None if self.frames is None else self.frames / self.sample_rate
