"""A part of an audio file, named before it is read."""

from __future__ import annotations

import math
import os

import msgspec

__all__ = ["AudioWindow"]


class AudioWindow(msgspec.Struct, frozen=True):
    """Seconds `[offset, offset + duration)` of a file.

    As a sample's `audio` it is cut out where the work on samples is done, and stored as a clip of
    its own: as FLAC with 16 bits, unless the conversion asks for another `audio_format`. Nothing
    is read, and the file need not exist, before that.

    Args:
        path: The file.
        offset: Start in seconds, rounded to the nearest frame.
        duration: Length in seconds; None means to the end.

    Raises:
        ValueError: for a window that no file can have.
    """

    path: str | os.PathLike[str]
    offset: float
    duration: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.offset) and self.offset >= 0):
            raise ValueError(f"offset is {self.offset}, expected 0 or more seconds")
        if self.duration is not None and not (math.isfinite(self.duration) and self.duration > 0):
            raise ValueError(f"duration is {self.duration}, expected more than 0 seconds")

    def __str__(self) -> str:
        stop = "the end" if self.duration is None else f"{self.offset + self.duration:.3f} s"
        return f"{os.fspath(self.path)} from {self.offset:.3f} s to {stop}"
