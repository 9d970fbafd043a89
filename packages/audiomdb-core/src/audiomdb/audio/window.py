"""Define `AudioWindow`, a part of an audio file given by offset, duration and channel."""

from __future__ import annotations

import os

import msgspec

from audiomdb.checks import is_finite, whole_number

__all__ = ["AudioWindow"]

_HIGHEST_CHANNEL = 2**16 - 1
"""Formats count channels in 16 bits at most."""


class AudioWindow(msgspec.Struct, frozen=True):
    """Seconds `[offset, offset + duration)` of an audio file.

    Give it as the `audio` of a sample. The window is cut out when the sample is processed, and
    stored as a clip of its own: as 16-bit FLAC, unless the conversion sets another `audio_format`.
    Until then nothing is read, and the file need not exist.

    A window of the whole file is not cut out: the file is stored as it is, unless it has other
    channels than the one asked for. (If no header gives the length of a file, only a window without
    a duration counts as whole.) A window that reaches past the end of the file is shortened; if
    more than 0.25 s are missing, it is refused with an AudioError.

    Args:
        path: The file.
        offset: Start in seconds, rounded to the nearest frame.
        duration: Length in seconds; None means to the end.
        channel: Number of the one channel to store, from 0; None means all of them. A file that
            has fewer channels is refused with an AudioError.

    Raises:
        ValueError: the offset is negative or no finite number, the duration is not above 0 or no
            finite number, or the channel is not a whole number from 0.
    """

    path: str | os.PathLike[str]
    offset: float
    duration: float | None = None
    channel: int | None = None

    def __post_init__(self) -> None:
        if not (is_finite(self.offset) and self.offset >= 0):
            raise ValueError(f"offset is {self.offset!r}, expected 0 or more seconds")
        if self.duration is not None and not (is_finite(self.duration) and self.duration > 0):
            raise ValueError(f"duration is {self.duration!r}, expected more than 0 seconds")
        if self.channel is not None:
            channel = whole_number("channel", self.channel, high=_HIGHEST_CHANNEL)
            msgspec.structs.force_setattr(self, "channel", channel)

    def __str__(self) -> str:
        stop = "the end" if self.duration is None else f"{self.offset + self.duration:.3f} s"
        channel = "" if self.channel is None else f", channel {self.channel}"
        return f"{os.fspath(self.path)} from {self.offset:.3f} s to {stop}{channel}"
