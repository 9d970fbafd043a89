"""What a header says about a clip, and what counts as a source of one."""

from __future__ import annotations

import os
from typing import TypeAlias

import msgspec

__all__ = ["AudioInfo", "AudioSource"]

AudioSource: TypeAlias = bytes | bytearray | memoryview | str | os.PathLike[str]
"""Encoded audio in memory, or the path of a file. Never copied when in memory."""


class AudioInfo(msgspec.Struct, frozen=True):
    """Facts about one encoded clip."""

    container: str
    """Container as libsndfile names it: `"WAV"`, `"FLAC"`, `"OGG"`, `"MP3"`, ..."""

    subtype: str
    """Coding of the samples: `"PCM_16"`, `"FLOAT"`, `"VORBIS"`, `"OPUS"`, ..."""

    sample_rate: int
    """Frames per second (Hz)."""

    channels: int
    """Samples in a frame."""

    frames: int | None
    """Number of frames, or None where only decoding can tell (a streamed FLAC)."""

    @property
    def duration(self) -> float | None:
        """Length in seconds, or None where `frames` is None."""
        return None if self.frames is None else self.frames / self.sample_rate
