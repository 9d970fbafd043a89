"""Define `AudioWindow`, a part of an audio file given by offset and duration."""

from __future__ import annotations

import math
import os

import msgspec

__all__ = ["AudioWindow"]


class AudioWindow(msgspec.Struct, frozen=True):
    """Seconds `[offset, offset + duration)` of an audio file.

    Give it as the `audio` of a sample. The window is cut out when the sample is processed, and
    stored as a clip of its own: as 16-bit FLAC, unless the conversion sets another `audio_format`.
    Until then nothing is read, and the file need not exist.

    A window of the whole file is not cut out: the file is stored as it is. (If no header gives the
    length of a file, only a window without a duration counts as that.) A window that reaches past
    the end of the file is shortened; if more than 0.25 s are missing, it is refused with an
    AudioError.

    Args:
        path: The file.
        offset: Start in seconds, rounded to the nearest frame.
        duration: Length in seconds; None means to the end.

    Raises:
        ValueError: the offset is negative or not finite, or the duration is not above 0 or not
            finite.
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
